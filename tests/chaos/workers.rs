//! Points side by side: each worker has a bench of its own and takes the next point when it is free.

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::task::JoinSet;

use crate::bench::{Bench, Sample};
use crate::drive;
use crate::point::{Point, Recording};
use crate::verdict::{Finding, Kind, Verdict};

/// A point that takes longer has hung, and the driver with it.
const LIMIT: Duration = Duration::from_secs(600);

type Queue = Arc<Mutex<VecDeque<(usize, Point, u64)>>>;
type Done = Vec<(usize, (Verdict, Recording))>;

pub struct Workers {
    benches: Vec<Bench>,
    /// A directory for each point; those of failed points stay.
    dir: PathBuf,
    begun: usize,
}

impl Workers {
    pub async fn start(count: usize) -> Self {
        let sample = Arc::new(Sample::make());
        let mut benches = Vec::new();
        for _ in 0..count {
            benches.push(Bench::start(sample.clone()).await);
        }
        let dir = tempfile::Builder::new().prefix("ims-chaos-").tempdir().unwrap().keep();
        Self { benches, dir, begun: 0 }
    }

    /// The points with what their work usually takes; verdicts in the same order.
    pub async fn run(&mut self, points: Vec<(Point, u64)>) -> Vec<(Verdict, Recording)> {
        let first = self.begun;
        self.begun += points.len();
        let numbered =
            points.into_iter().enumerate().map(|(at, (point, usual))| (at, point, usual));
        let queue: Queue = Arc::new(Mutex::new(numbered.collect()));
        let mut working = JoinSet::new();
        for bench in self.benches.drain(..) {
            working.spawn(work(bench, queue.clone(), self.dir.clone(), first));
        }
        let mut done = Vec::new();
        while let Some(worked) = working.join_next().await {
            let (bench, verdicts) = worked.expect("a worker catches what panics in it");
            self.benches.push(bench);
            done.extend(verdicts);
        }
        done.sort_by_key(|(at, _)| *at);
        done.into_iter().map(|(_, verdict)| verdict).collect()
    }

    /// Where the directories of failed points are.
    pub fn end(self) -> PathBuf {
        let _ = fs::remove_dir(&self.dir);
        self.dir
    }
}

async fn work(mut bench: Bench, queue: Queue, dir: PathBuf, first: usize) -> (Bench, Done) {
    let mut done = Vec::new();
    loop {
        let next = queue.lock().unwrap().pop_front();
        let Some((at, point, usual)) = next else { return (bench, done) };
        let place = dir.join(format!("{:04}", first + at));
        fs::create_dir_all(&place).unwrap();
        let begun = Instant::now();
        let drive = std::panic::AssertUnwindSafe(drive::point(&bench, &point, usual, &place));
        let (verdict, recording) = match tokio::time::timeout(LIMIT, drive.catch_unwind()).await {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => (broken(&point, begun, said(panic.as_ref())), Recording::default()),
            Err(_) => {
                let what = format!("no verdict within {LIMIT:?}");
                (broken(&point, begun, what), Recording::default())
            }
        };
        if verdict.findings.is_empty() {
            let _ = fs::remove_dir_all(&place);
        } else {
            tell(&verdict, &place);
        }
        bench.clean().await;
        done.push((at, (verdict, recording)));
    }
}

fn broken(point: &Point, begun: Instant, what: String) -> Verdict {
    Verdict {
        name: point.name.clone(),
        group: point.group,
        outcome: None,
        met: false,
        findings: vec![Finding { kind: Kind::Harness, what }],
        took: begun.elapsed(),
    }
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic".into())
}

/// At once, for whoever watches a run of hours; and where its directory is.
fn tell(verdict: &Verdict, place: &std::path::Path) {
    let mut text = format!("FAILED {} ({})\n", verdict.name, place.display());
    for finding in &verdict.findings {
        text += &format!("    {}: {}\n", finding.kind.name(), finding.what);
    }
    text += &format!("    alone: scripts/chaos --only '{}'", verdict.name);
    println!("{text}");
    let _ = fs::write(place.join("verdict"), text);
}
