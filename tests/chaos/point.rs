//! The points: what happens where, and the names by which they are run again.

use crate::director::{Spot, Times};
use crate::fault::{self, Fault};
use crate::shape::{Shape, Work};
use crate::site::Hold;

/// When something happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// A request has come and is not passed on.
    Before(Spot),
    /// A request was carried out and is not answered.
    After(Spot),
    /// The job's directory has changed.
    Change(Spot),
    /// So many thousandths of the time that the work takes have passed.
    Time(u64),
    /// The user has made the changes.
    Worked,
    /// The user has said `complete`.
    Done,
    /// Before anything else.
    Start,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Kill,
    /// The program that is started then is killed as well.
    KillTwice(Trigger),
    Term,
    /// Of standalone's job: what serves it is killed by `Kill`.
    KillAgent,
    Fail(Fault, Times),
    /// The volume is full.
    Fill,
    /// No file may become longer than so many bytes.
    FileSize(u64),
    /// So many descriptors.
    Descriptors(u64),
    /// The log goes there.
    Stderr(&'static str),
    /// Nothing.
    Leave,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    pub name: String,
    /// Points of a group share a line of the table.
    pub group: &'static str,
    pub shape: Shape,
    pub trigger: Trigger,
    pub action: Action,
    pub hold: Hold,
}

/// What a job that nothing disturbed has done.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    pub requests: Vec<Spot>,
    pub changes: Vec<Spot>,
    pub milliseconds: u64,
}

impl Trigger {
    fn name(&self) -> String {
        match self {
            Self::Before(spot) => format!("before.{spot}"),
            Self::After(spot) => format!("after.{spot}"),
            Self::Change(spot) => format!("when.{spot}"),
            Self::Time(thousandths) => format!("at.{thousandths}"),
            Self::Worked => "worked".into(),
            Self::Done => "done".into(),
            Self::Start => "start".into(),
        }
    }
}

impl Point {
    /// A run that nothing disturbs.
    pub fn clean(shape: Shape) -> Self {
        let name = format!("{}/clean", shape.name);
        let (trigger, action) = (Trigger::Start, Action::Leave);
        Self { name, group: "clean", shape, trigger, action, hold: Hold::No }
    }

    fn new(
        shape: Shape,
        group: &'static str,
        what: &str,
        trigger: Trigger,
        action: Action,
        hold: Hold,
    ) -> Self {
        let name = format!("{}/{what}/{}", shape.name, trigger.name());
        Self { name, group, shape, trigger, action, hold }
    }
}

/// All points of a shape.
pub fn all(shape: Shape, recording: &Recording) -> Vec<Point> {
    let mut points = Vec::new();
    if shape.work == Work::Standalone {
        standalone(shape, &mut points);
        return points;
    }
    signals(shape, recording, &mut points);
    if shape.standing.is_none() {
        faults(shape, recording, &mut points);
        shortages(shape, recording, &mut points);
    }
    if shape.name == "overlay" {
        twice(shape, recording, &mut points);
    }
    points
}

/// A signal at every request, every change of the directory, and at times between.
fn signals(shape: Shape, recording: &Recording, points: &mut Vec<Point>) {
    // With a standing fault and patience there is no roll-back.
    let hold = if shape.standing.is_some() { Hold::No } else { Hold::Long };
    let mut add = |group: [&'static str; 2], trigger: Trigger| {
        for (group, what, action) in
            [(group[0], "kill", Action::Kill), (group[1], "term", Action::Term)]
        {
            points.push(Point::new(shape, group, what, trigger.clone(), action, hold));
        }
    };
    for spot in distinct(&recording.requests) {
        add(["kill at a request", "SIGTERM at a request"], Trigger::Before(spot.clone()));
        add(["kill at a request", "SIGTERM at a request"], Trigger::After(spot));
    }
    for spot in &recording.changes {
        let group = ["kill at a change", "SIGTERM at a change"];
        add(group, Trigger::Change(spot.clone()));
    }
    for step in 0..40 {
        add(["kill at a time", "SIGTERM at a time"], Trigger::Time(step * 27));
    }
    if shape.has_user() {
        for trigger in [Trigger::Worked, Trigger::Done] {
            add(["kill at a change", "SIGTERM at a change"], trigger);
        }
    }
}

/// Standalone itself or the agent of its job, at times.
fn standalone(shape: Shape, points: &mut Vec<Point>) {
    let times = (1..40).map(|step| Trigger::Time(step * 26));
    for trigger in times.chain([Trigger::Worked, Trigger::Done]) {
        let mut add = |what, action| {
            let (group, trigger) = ("standalone", trigger.clone());
            points.push(Point::new(shape, group, what, trigger, action, Hold::No));
        };
        add("kill", Action::Kill);
        add("term", Action::Term);
        add("kill-agent", Action::KillAgent);
    }
}

/// Downloads and looks may come in any number.
fn distinct(requests: &[Spot]) -> Vec<Spot> {
    let mut spots = requests.to_vec();
    spots.retain(|spot| spot.nth <= 3);
    spots
}

/// Every fault at every request; all requests of a service from it on where it is the first.
fn faults(shape: Shape, recording: &Recording, points: &mut Vec<Point>) {
    for spot in distinct(&recording.requests) {
        for (fault, name) in fault::ALL {
            if !fault.fits(&spot.label) {
                continue;
            }
            let mut add = |group, what: &str, times, hold| {
                let action = Action::Fail(fault, times);
                let what = format!("{name}-{what}");
                let trigger = Trigger::Before(spot.clone());
                points.push(Point::new(shape, group, &what, trigger, action, hold));
            };
            add("a fault once", "once", Times::Of(1), Hold::Long);
            add("a fault 3 times", "thrice", Times::Of(3), Hold::Long);
            if shape.is_job() {
                add("a fault that lasts, patience", "held", Times::Ever, Hold::Long);
                add("a service that fails, patience", "all-held", Times::All, Hold::Long);
            }
            add("a fault that lasts", "ever", Times::Ever, Hold::No);
            add("a service that fails", "all", Times::All, Hold::No);
            if shape.is_job() {
                add("a service that fails, rescue", "all-rescue", Times::All, Hold::Rescue);
            }
        }
    }
}

/// No room, no descriptors, no log.
fn shortages(shape: Shape, recording: &Recording, points: &mut Vec<Point>) {
    let mut triggers: Vec<_> =
        distinct(&recording.requests).into_iter().map(Trigger::Before).collect();
    if shape.work == Work::Customize {
        triggers.extend([Trigger::Worked, Trigger::Done]);
        triggers.extend(recording.changes.iter().cloned().map(Trigger::Change));
    }
    for trigger in triggers {
        let mut add = |what: &str, action| {
            let trigger = trigger.clone();
            points.push(Point::new(shape, "a shortage", what, trigger, action, Hold::Long));
        };
        add("full", Action::Fill);
        for size in [0, 4096, 5_000_000] {
            add(&format!("fsize-{size}"), Action::FileSize(size));
        }
        for count in [0, 16, 24, 40] {
            add(&format!("nofile-{count}"), Action::Descriptors(count));
        }
    }
    for to in ["closed", "full", "volume"] {
        let what = format!("stderr-{to}");
        let action = Action::Stderr(to);
        points.push(Point::new(shape, "a shortage", &what, Trigger::Start, action, Hold::Long));
    }
}

/// Killed while it publishes, and once more while it finds out what was published.
fn twice(shape: Shape, recording: &Recording, points: &mut Vec<Point>) {
    let publishing = |spot: &Spot| !spot.label.contains("base") && !spot.label.contains(".GET.");
    let begin = recording.requests.iter().position(|spot| spot.label == "ims.POST.images");
    let requests = recording.requests[begin.unwrap_or(0)..].iter().filter(|it| publishing(it));
    let requests: Vec<_> = requests.filter(|spot| spot.nth == 1).cloned().collect();
    for first in &requests {
        for second in &requests {
            // The counts go on with the second agent.
            let again = Spot { nth: 0, ..second.clone() };
            for second in [Trigger::Before(again.clone()), Trigger::After(again)] {
                let name = format!("kill+{}", second.name());
                let (trigger, action) = (Trigger::After(first.clone()), Action::KillTwice(second));
                let group = "kill, and kill again";
                points.push(Point::new(shape, group, &name, trigger, action, Hold::Long));
            }
        }
    }
}
