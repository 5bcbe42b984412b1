//! Brings one point to its end: starts the work, lets it be disturbed, heals, starts again, asks the oracle.

use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal::{self, SIGKILL, SIGTERM};

use crate::bench::Bench;
use crate::director::{Plan, Times};
use crate::oracle;
use crate::point::{Action, Point, Recording, Trigger};
use crate::shape::Work;
use crate::shortage::{self, Volume};
use crate::site::{Agent, Site};
use crate::standalone;
use crate::user::{self, Progress, User};
use crate::verdict::{Finding, Kind, Outcome, Verdict};
use crate::watcher::{Target, Watcher};

/// How long a fault lasts that neither ends a job nor has it held.
const LASTS: Duration = Duration::from_secs(75);
/// The same for a shortage, which may not matter at all.
const SHORT: Duration = Duration::from_secs(6);
/// How long the work may take that nothing disturbs any more.
const ENOUGH: Duration = Duration::from_secs(120);
/// How long a job may wait for its user before that is looked at.
const A_WHILE: Duration = Duration::from_secs(1);
/// How often a kubelet would start it.
const STARTS: usize = 5;

/// One point on its way.
pub struct Drive<'a> {
    bench: &'a Bench,
    point: &'a Point,
    pub site: Site,
    pub user: User,
    pub findings: Vec<Finding>,
    watcher: Watcher,
    volume: Option<Volume>,
    /// What the work takes where nothing disturbs it.
    usual: Duration,
    fired: Option<Instant>,
    twice: bool,
    held: bool,
    healed: Option<Instant>,
    /// What the first start has done.
    recording: Recording,
}

/// How an attempt ended.
enum End {
    Exit(ExitStatus),
    /// Given up by the driver, which has killed it.
    GivenUp,
}

pub async fn point(bench: &Bench, point: &Point, usual: u64, dir: &Path) -> (Verdict, Recording) {
    if point.shape.work == Work::Standalone {
        return standalone(bench, point, usual, dir).await;
    }
    let begun = Instant::now();
    let mut drive = Drive::new(bench, point, Duration::from_millis(usual), dir).await;
    let outcome = drive.run().await;
    let orphans = oracle::left(bench, &drive.site).await;
    drive.findings.extend(orphans.into_iter().map(|what| Finding { kind: Kind::Orphan, what }));
    let recording = std::mem::take(&mut drive.recording);
    let verdict = Verdict {
        name: point.name.clone(),
        group: point.group,
        outcome: outcome.filter(|_| drive.findings.is_empty()),
        met: drive.fired.is_some(),
        findings: drive.findings.clone(),
        took: begun.elapsed(),
    };
    (verdict, recording)
}

/// On a thread of its own: what starts and stops a standalone may not change threads.
async fn standalone(bench: &Bench, point: &Point, usual: u64, dir: &Path) -> (Verdict, Recording) {
    let (sample, point, dir) = (bench.sample.clone(), point.clone(), dir.to_owned());
    let runtime = tokio::runtime::Handle::current();
    let run = move || runtime.block_on(standalone::point(sample, &point, usual, &dir));
    let done = tokio::task::spawn_blocking(run).await;
    done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

impl<'a> Drive<'a> {
    async fn new(bench: &'a Bench, point: &'a Point, usual: Duration, dir: &Path) -> Self {
        let parent = dir.join("mnt-image");
        std::fs::create_dir_all(&parent).unwrap();
        let volume = matches!(point.action, Action::Fill | Action::Stderr("volume"))
            .then(|| Volume::mount(&parent));
        let mut site = Site::make(bench, point.shape, point.hold, dir).await;
        if let Action::Stderr(to) = point.action {
            site.wrapper = shortage::stderr(to, &parent);
        }
        let target = match &point.trigger {
            Trigger::Change(at) => Some(Target { at: at.clone(), signal: signal(&point.action) }),
            _ => None,
        };
        let watcher = Watcher::start(&parent, target);
        let drive = Self {
            bench,
            point,
            site,
            user: User::new(),
            findings: Vec::new(),
            watcher,
            volume,
            usual,
            fired: None,
            twice: false,
            held: false,
            healed: None,
            recording: Recording::default(),
        };
        drive.arm(&point.trigger);
        drive
    }

    /// Has the proxies stop or fail at the trigger.
    fn arm(&self, trigger: &Trigger) {
        let (at, after) = match trigger {
            Trigger::Before(at) => (at.clone(), false),
            Trigger::After(at) => (at.clone(), true),
            _ => return,
        };
        self.site.director.plan(match self.point.action {
            Action::Fail(fault, times) => Plan::Fail { at, fault, times },
            _ => Plan::Stop { at, after },
        });
    }

    pub fn found(&mut self, kind: Kind, what: impl Into<String>) {
        self.findings.push(Finding { kind, what: what.into() });
    }

    async fn run(&mut self) -> Option<Outcome> {
        for start in 0.. {
            if start == STARTS {
                self.found(Kind::Stuck, format!("not at its end after {STARTS} starts"));
                return None;
            }
            let mut agent = self.site.start();
            let begun = Instant::now();
            let end = self.attend(&mut agent).await;
            if start == 0 {
                self.recording = Recording {
                    requests: self.site.director.requests(),
                    changes: self.watcher.changes(),
                    milliseconds: begun.elapsed().as_millis() as u64,
                };
            }
            let End::Exit(status) = end else { break };
            let killed = self.was_killed(&agent, status);
            if !killed {
                oracle::exit(self, &agent, status);
            }
            self.between();
            if !killed && self.is_over(status) {
                break;
            }
        }
        oracle::judge(self).await
    }

    /// What happens between two starts: all is well again, or the second kill is prepared.
    fn between(&mut self) {
        match &self.point.action {
            Action::KillTwice(second) if self.fired.is_some() && !self.twice => {
                self.twice = true;
                self.arm(second);
            }
            _ if self.fired.is_some() || self.site.shape.standing.is_some() => self.heal(),
            _ => {}
        }
    }

    /// Whether nobody would start it again. An import is started again until it succeeds, as is `package`.
    fn is_over(&self, status: ExitStatus) -> bool {
        match self.site.shape.work {
            Work::Customize | Work::AfterBuild => self.site.record.is_terminal(),
            Work::Package | Work::Import | Work::Standalone => status.success(),
        }
    }

    fn was_killed(&self, agent: &Agent, status: ExitStatus) -> bool {
        use std::os::unix::process::ExitStatusExt;
        let by = |signal: Signal| self.fired.is_some() && status.signal() == Some(signal as i32);
        // Before the program has come so far that it follows SIGTERM, it is ended by it.
        // unshare(1) makes a code of its own of a signal, and a program that ends by itself prints why.
        let child = agent.forks && self.fired.is_some() && agent.process.output().is_empty();
        (self.kills() && (by(SIGKILL) || child))
            || (self.point.action == Action::Term && by(SIGTERM))
    }

    /// Until it ends.
    async fn attend(&mut self, agent: &mut Agent) -> End {
        let (started, mut waits) = (Instant::now(), None);
        loop {
            if let Some(status) = agent.ended().await {
                if self.watcher.fired() || self.site.director.happened() {
                    self.fired.get_or_insert_with(Instant::now);
                }
                return End::Exit(status);
            }
            self.watcher.set_process(agent.pid().unwrap_or(0));
            self.disturb(agent, started).await;
            self.user_does(agent).await;
            self.heal_in_time(agent).await;
            if self.is_started_over(agent, &mut waits).await {
                return self
                    .give_up(agent, Kind::StartedOver, "waits for a user who is gone")
                    .await;
            }
            let since = self.healed.map_or(started, |healed| healed.max(started));
            if since.elapsed() > ENOUGH {
                let what = format!("no end {ENOUGH:?} after all is well again");
                return self.give_up(agent, Kind::Stuck, &what).await;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn give_up(&mut self, agent: &mut Agent, kind: Kind, what: &str) -> End {
        self.found(kind, what);
        agent.signal(SIGKILL);
        agent.process.wait(ENOUGH).await;
        End::GivenUp
    }

    async fn user_does(&mut self, agent: &Agent) {
        if !self.site.shape.has_user() {
            return;
        }
        let stay = self.point.trigger == Trigger::Worked && self.fired.is_none();
        self.user.step(self.bench, &self.site, agent, stay).await;
    }

    /// Does what is to happen, if it is time for it.
    async fn disturb(&mut self, agent: &mut Agent, started: Instant) {
        if self.twice && self.site.director.is_stopped() {
            agent.signal(SIGKILL);
            return;
        }
        if self.fired.is_some() {
            return;
        }
        let time = |thousandths: u64| self.usual.mul_f64(thousandths as f64 / 1000.0);
        let due = match &self.point.trigger {
            Trigger::Before(_) | Trigger::After(_) => self.site.director.happened(),
            Trigger::Change(_) => self.watcher.fired(),
            Trigger::Time(thousandths) => started.elapsed() >= time(*thousandths),
            Trigger::Worked => self.user.progress == Progress::Worked,
            Trigger::Done => self.user.progress == Progress::Done,
            // It fills its log's volume when the user is done.
            Trigger::Start if self.point.action == Action::Stderr("volume") => {
                self.user.progress == Progress::Done
            }
            Trigger::Start => true,
        };
        if !due {
            return;
        }
        self.fired = Some(Instant::now());
        let pid = agent.pid().unwrap_or(agent.process.id());
        match &self.point.action {
            Action::Kill | Action::KillTwice(_) if self.watcher.fired() => {}
            Action::Term if self.watcher.fired() => {}
            Action::Kill | Action::KillTwice(_) => agent.signal(SIGKILL),
            Action::Term => agent.signal(SIGTERM),
            Action::Fill | Action::Stderr("volume") => self.volume.as_ref().unwrap().fill(),
            Action::FileSize(size) => shortage::limit(pid, "fsize", Some(*size)),
            Action::Descriptors(count) => shortage::limit(pid, "nofile", Some(*count)),
            Action::Fail(..) | Action::Stderr(_) | Action::KillAgent | Action::Leave => {}
        }
        // What was stopped by a kill is never passed on.
        if !self.kills() {
            self.site.director.release();
        }
    }

    /// Ends what lasts, when the job is held or nothing more is to be expected.
    async fn heal_in_time(&mut self, agent: &Agent) {
        let Some(fired) = self.fired else { return };
        if self.healed.is_some() {
            return;
        }
        let lasts = match self.point.action {
            Action::Fail(_, Times::Ever | Times::All) => LASTS,
            Action::Fill | Action::FileSize(_) | Action::Descriptors(_) => SHORT,
            Action::Stderr("volume") => SHORT,
            _ => return,
        };
        if let Some(hold) = agent.hold().await {
            oracle::held(self, agent, &hold);
            self.held = true;
            self.heal_now(agent);
        } else if fired.elapsed() > lasts {
            if lasts == LASTS {
                self.found(
                    Kind::Stuck,
                    format!("no end and no hold while a fault lasted {lasts:?}"),
                );
            }
            self.heal_now(agent);
        }
    }

    fn heal_now(&mut self, agent: &Agent) {
        let pid = agent.pid().unwrap_or(agent.process.id());
        match self.point.action {
            Action::FileSize(_) => shortage::limit(pid, "fsize", None),
            Action::Descriptors(_) => shortage::limit(pid, "nofile", None),
            _ => {}
        }
        self.heal();
    }

    pub fn heal(&mut self) {
        if let Some(volume) = &self.volume {
            volume.empty();
        }
        self.site.director.release();
        self.site.director.heal();
        self.healed.get_or_insert_with(Instant::now);
    }

    /// The user was done, nothing lies there that says so, and the job waits for some seconds. A user who is
    /// asked for a repair is done once more.
    async fn is_started_over(&self, agent: &Agent, waits: &mut Option<Instant>) -> bool {
        let waiting = self.user.progress == Progress::Done
            && self.site.record.status() == "waiting_on_user"
            && !user::signal_lies_there(&self.site)
            && !matches!(self.point.action, Action::Stderr(_));
        // The record stays where it is while IMS takes no status.
        if !waiting || agent.status().await.is_some_and(|status| status != "waiting_on_user") {
            *waits = None;
            return false;
        }
        let since = *waits.get_or_insert_with(Instant::now);
        if self.healed.is_some() && since.elapsed() > A_WHILE && agent.hold().await.is_some() {
            self.user.complete_again(&self.site);
        }
        since.elapsed() > 10 * A_WHILE
    }

    /// Starts the job once more where it has ended, or packages by hand; how that ended.
    pub async fn once_more(&mut self, by_hand: bool) -> (Agent, Option<ExitStatus>) {
        self.heal();
        if by_hand {
            self.site.record.by_hand();
        }
        let mut agent = if by_hand { self.site.package() } else { self.site.start() };
        match self.attend(&mut agent).await {
            End::Exit(status) => (agent, Some(status)),
            End::GivenUp => (agent, None),
        }
    }

    /// Whether the point kills.
    pub fn kills(&self) -> bool {
        matches!(self.point.action, Action::Kill | Action::KillTwice(_))
    }

    pub fn held(&self) -> bool {
        self.held
    }

    pub fn point(&self) -> &'a Point {
        self.point
    }

    pub fn bench(&self) -> &'a Bench {
        self.bench
    }
}

fn signal(action: &Action) -> Option<Signal> {
    match action {
        Action::Kill | Action::KillTwice(_) => Some(SIGKILL),
        Action::Term => Some(SIGTERM),
        _ => None,
    }
}
