//! The chaos run: jobs between a failing IMS and a failing store, killed wherever they are, short of
//! everything; and one oracle. `scripts/chaos` runs it for as long as one likes; docs/chaos.md.
//!
//! A first run of every shape, which nothing disturbs, records its requests and the changes of its
//! directory. From these the points are made, always the same ones; the seed chooses among them.

#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a program of its own")]

mod bench;
mod director;
mod drive;
mod fault;
mod label;
mod oracle;
mod point;
mod proxy;
mod record;
mod shape;
mod shortage;
mod site;
mod standalone;
#[path = "../support/mod.rs"]
mod support;
mod table;
mod user;
mod verdict;
mod watcher;
mod workers;

use std::collections::BTreeMap;

use point::{Point, Recording};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use shape::Shape;
use workers::Workers;

/// How many points `cargo test` runs.
const FEW: usize = 24;

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn number<T: std::str::FromStr>(name: &str, default: T) -> T {
    setting(name).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}"))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_nothing_is_lost_and_nothing_is_left() {
    let seed = number("IMS_CHAOS_SEED", 1u64);
    let count = number("IMS_CHAOS_POINTS", FEW);
    let only = setting("IMS_CHAOS_ONLY");
    let mut workers = Workers::start(number("IMS_CHAOS_JOBS", 4)).await;
    let shapes = recorded_shapes(only.as_deref());
    let clean: Vec<_> = shapes.iter().map(|shape| (Point::clean(*shape), 0)).collect();
    let recorded = workers.run(clean).await;
    let mut verdicts = Vec::new();
    let mut points = Vec::new();
    for (shape, (verdict, recording)) in shapes.iter().zip(recorded) {
        let usual = recording.milliseconds;
        points.extend(point::all(*shape, &recording).into_iter().map(|point| (point, usual)));
        verdicts.push(verdict);
    }
    if setting("IMS_CHAOS_LIST").is_some() {
        points.iter().for_each(|(point, _)| println!("{}", point.name));
        return;
    }
    let total = points.len();
    let chosen = choose(points, count, seed, only.as_deref());
    println!("{} of {total} points, seed {seed}", chosen.len());
    verdicts.extend(workers.run(chosen).await.into_iter().map(|(verdict, _)| verdict));
    let kept = workers.end();
    table::print(&verdicts, &kept);
    let failed = verdicts.iter().filter(|verdict| !verdict.findings.is_empty()).count();
    assert!(failed == 0, "{failed} points failed");
}

/// The shapes that have points with `only` in their names, as far as it says.
fn recorded_shapes(only: Option<&str>) -> Vec<Shape> {
    let named = only.and_then(|only| Some(only.split_once('/')?.0));
    let chosen = shape::ALL.into_iter().filter(|shape| Some(shape.name) == named);
    let chosen: Vec<_> = chosen.collect();
    if chosen.is_empty() { shape::ALL.to_vec() } else { chosen }
}

/// The points with `only` in their name; or so many of each group in turn, as the seed has it.
fn choose(
    points: Vec<(Point, u64)>,
    count: usize,
    seed: u64,
    only: Option<&str>,
) -> Vec<(Point, u64)> {
    let mut points = points;
    if let Some(only) = only {
        let exact = points.iter().any(|(point, _)| point.name == only);
        points.retain(|(it, _)| if exact { it.name == only } else { it.name.contains(only) });
    }
    points.shuffle(&mut StdRng::seed_from_u64(seed));
    let mut groups: BTreeMap<&str, Vec<(Point, u64)>> = BTreeMap::new();
    for (point, usual) in points {
        groups.entry(point.group).or_default().push((point, usual));
    }
    let mut chosen = Vec::new();
    while chosen.len() < count && groups.values().any(|group| !group.is_empty()) {
        for group in groups.values_mut() {
            if chosen.len() < count {
                chosen.extend(group.pop());
            }
        }
    }
    chosen
}

#[test]
fn the_same_seed_chooses_the_same_points() {
    let recording = Recording {
        requests: (1..4).map(|nth| director::Spot { label: "s3.PUT.kernel".into(), nth }).collect(),
        ..Recording::default()
    };
    let points = || {
        let all = point::all(shape::ALL[0], &recording);
        all.into_iter().map(|point| (point, 1000)).collect::<Vec<_>>()
    };
    let names = |chosen: Vec<(Point, u64)>| -> Vec<String> {
        chosen.into_iter().map(|(point, _)| point.name).collect()
    };
    let first = names(choose(points(), 30, 7, None));
    assert_eq!(first.len(), 30);
    assert_eq!(first, names(choose(points(), 30, 7, None)));
    assert_ne!(first, names(choose(points(), 30, 8, None)));
    let one = "overlay/kill/before.s3.PUT.kernel.n2";
    assert_eq!(names(choose(points(), 30, 7, Some(one))), [one]);
    let mut all = names(choose(points(), usize::MAX, 7, None));
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count, "a name is one point's alone");
}
