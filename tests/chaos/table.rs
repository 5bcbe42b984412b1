//! What a run has shown, a line for each group of points.

use std::collections::BTreeMap;
use std::path::Path;

use crate::verdict::{Kind, Outcome, Verdict};

pub fn print(verdicts: &[Verdict], kept: &Path) {
    let mut groups: BTreeMap<&str, Vec<&Verdict>> = BTreeMap::new();
    for verdict in verdicts {
        groups.entry(verdict.group).or_default().push(verdict);
    }
    println!(
        "\n{:34} {:>6} {:>8} {:>9} {:>5} {:>6} {:>6} {:>5} {:>7}",
        "group", "points", "not met", "published", "held", "error", "failed", "lost", "orphans"
    );
    for (group, verdicts) in &groups {
        line(group, verdicts);
    }
    line("all", &verdicts.iter().collect::<Vec<_>>());
    let kinds = Kind::ALL.map(|kind| format!("{}: {}", kind.name(), with(verdicts.iter(), kind)));
    println!("\npoints with findings: {}", kinds.join(", "));
    let seconds: f64 = verdicts.iter().map(|verdict| verdict.took.as_secs_f64()).sum();
    println!("{:.1} s a point", seconds / verdicts.len().max(1) as f64);
    if kept.exists() {
        println!("the directories of failed points: {}", kept.display());
    }
}

fn line(group: &str, verdicts: &[&Verdict]) {
    let outcomes = |outcome| verdicts.iter().filter(|it| it.outcome == Some(outcome)).count();
    println!(
        "{group:34} {:>6} {:>8} {:>9} {:>5} {:>6} {:>6} {:>5} {:>7}",
        verdicts.len(),
        verdicts.iter().filter(|it| !it.met).count(),
        outcomes(Outcome::Published),
        outcomes(Outcome::Held),
        outcomes(Outcome::Error),
        verdicts.iter().filter(|it| !it.findings.is_empty()).count(),
        with(verdicts.iter().copied(), Kind::Lost),
        with(verdicts.iter().copied(), Kind::Orphan),
    );
}

fn with<'a>(verdicts: impl Iterator<Item = &'a Verdict>, kind: Kind) -> usize {
    verdicts.filter(|it| it.findings.iter().any(|finding| finding.kind == kind)).count()
}
