//! The one oracle: after all is well again, and a start of what was ended, there is exactly one published
//! image with the user's work, or an error that said why with the work in its place; nothing else is left.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use md5::{Digest, Md5};
use serde_json::Value;

use crate::bench::{Bench, timeless};
use crate::drive::Drive;
use crate::point::Action;
use crate::shape::Work;
use crate::site::{Agent, Hold, Site};
use crate::support::tree::{self, Tree};
use crate::user::Progress;
use crate::verdict::{Kind, Outcome};

/// How long what runs elsewhere may take to be over.
const SETTLES: Duration = Duration::from_secs(20);

/// The codes of docs/exit-codes.md that a job may end with.
const CODES: [i32; 4] = [0, 1, 4, 143];

/// Looks at an end that nobody has forced.
pub fn exit(drive: &mut Drive, agent: &Agent, status: ExitStatus) {
    let log = agent.process.log();
    if let Some(line) = log.lines().find(|line| line.contains("panicked")) {
        drive.found(Kind::Crash, line.to_owned());
    }
    let Some(code) = status.code() else {
        let signal = status.signal();
        drive.found(Kind::Crash, format!("ended by signal {signal:?}: {}", last_line(&log)));
        return;
    };
    if !CODES.contains(&code) {
        drive.found(Kind::Crash, format!("exit code {code}: {}", last_line(&log)));
    }
    let says_nothing = says_nothing(&drive.point().action);
    let said = log + &agent.process.output();
    if code != 0 && !says_nothing && !said.contains(" ERROR ") && !said.contains("error") {
        drive.found(Kind::Unclear, format!("exit code {code} and no error was said"));
    }
    if code != 0 && drive.site.shape.is_job() && !says_nothing {
        let result: Option<Value> = serde_json::from_str(&agent.process.output()).ok();
        let error = result.as_ref().and_then(|it| it["error"].as_str()).unwrap_or_default();
        let published = result.as_ref().is_some_and(|it| it["result"] == "success");
        if error.is_empty() && !published {
            drive.found(Kind::Unclear, format!("exit code {code} and no reason in the result"));
        }
    }
}

/// Where the log is what is missing.
fn says_nothing(action: &Action) -> bool {
    matches!(action, Action::Stderr(_) | Action::FileSize(_) | Action::Descriptors(_))
}

/// Looks at a job that says that it is held.
pub fn held(drive: &mut Drive, agent: &Agent, hold: &Value) {
    // A success whose answer was lost is one that the job cannot know of.
    if drive.site.record.status() == "error" {
        drive.found(Kind::Unclear, format!("held with the status error: {hold}"));
    }
    let reason: String = hold["reason"].as_str().unwrap_or_default().chars().take(30).collect();
    let quiet = says_nothing(&drive.point().action);
    if reason.is_empty() || (!quiet && !agent.process.log().contains(&reason)) {
        drive.found(Kind::Unclear, format!("held, and the log does not say why: {hold}"));
    }
}

/// How the point ended; findings where it did not end well.
pub async fn judge(drive: &mut Drive<'_>) -> Option<Outcome> {
    let outcome = match drive.site.shape.work {
        Work::Import | Work::Package | Work::Standalone => Outcome::Published,
        Work::Customize | Work::AfterBuild => {
            let success = drive.site.record.status() == "success";
            let outcome = match (success, drive.held()) {
                (true, true) => Outcome::Held,
                (true, false) => Outcome::Published,
                (false, _) => Outcome::Error,
            };
            if !success && drive.point().hold == Hold::Rescue {
                rescued(drive).await;
            }
            if !success && !publishes_by_hand(drive).await {
                return wrong(drive, Outcome::Error);
            }
            outcome
        }
    };
    if let Err((kind, what)) = published(drive).await {
        drive.found(kind, what);
    }
    leftovers(drive);
    wrong(drive, outcome)
}

fn wrong(drive: &mut Drive, outcome: Outcome) -> Option<Outcome> {
    for what in drive.site.record.wrong() {
        drive.found(Kind::Changed, what);
    }
    Some(outcome)
}

/// A job that ended with an error: a start changes nothing, and `package` publishes what its user has done.
/// False where nobody has done anything yet.
async fn publishes_by_hand(drive: &mut Drive<'_>) -> bool {
    let nothing_done = drive.site.shape.has_user() && drive.user.progress == Progress::Absent;
    if drive.site.record.is_terminal() {
        let (agent, status) = drive.once_more(false).await;
        if let Some(status) = status {
            exit(drive, &agent, status);
        }
    }
    if nothing_done {
        return false;
    }
    if drive.site.record.status() == "success" {
        return true;
    }
    let (agent, status) = drive.once_more(true).await;
    if !status.is_some_and(|status| status.success()) {
        let log = agent.process.log();
        drive.found(Kind::Lost, format!("`package` does not publish it: {}", last_error(&log)));
    }
    true
}

/// Whether the work lies where it is to be saved.
async fn rescued(drive: &mut Drive<'_>) {
    let site = &drive.site;
    if site.shape.has_user() && drive.user.progress == Progress::Absent {
        return;
    }
    let place = site.rescue().join(&site.job);
    let found = match (fs::read(place.join("rootfs")), place.join("rescue.json").exists()) {
        (Ok(rootfs), true) => {
            let root = content(&site.dir, rootfs).await;
            same(&root, expected(drive))
        }
        _ => Err(format!("there is no rootfs and rescue.json in {}", place.display())),
    };
    if let Err(what) = found {
        drive.found(Kind::Lost, format!("not saved: {what}"));
    }
}

fn expected<'a>(drive: &Drive<'a>) -> &'a Tree {
    match drive.site.shape.has_user() {
        true => &drive.bench().sample.changed,
        false => &drive.bench().sample.plain,
    }
}

/// Whether exactly one image is there, complete, with what was worked.
async fn published(drive: &Drive<'_>) -> Result<(), (Kind, String)> {
    let site = &drive.site;
    let result = site.record.result();
    let result = (site.shape.work != Work::Import).then_some(result.as_deref());
    image(drive.bench(), result, expected(drive), &site.dir).await
}

/// Whether exactly one image is complete, the `result` of the job (where there is one), and as `expected`.
pub async fn image(
    bench: &Bench,
    result: Option<Option<&str>>,
    expected: &Tree,
    dir: &Path,
) -> Result<(), (Kind, String)> {
    let mut linked = Vec::new();
    for id in bench.images().await {
        let image = bench.stand.ims.get(&format!("v3/images/{id}")).await;
        if image["link"]["path"].is_string() {
            linked.push(image);
        }
    }
    let lost = |what| (Kind::Lost, what);
    let image = match &linked[..] {
        [image] => image,
        [] => return Err(lost("no image is complete".into())),
        more => return Err((Kind::Double, format!("{} images are complete", more.len()))),
    };
    let id = image["id"].as_str().unwrap();
    if let Some(result) = result
        && result != Some(id)
    {
        return Err(lost(format!("the job's result is {result:?} and the image is {id}")));
    }
    let rootfs = artifacts(bench, image).await.map_err(lost)?;
    same(&content(dir, rootfs).await, expected).map_err(lost)
}

/// The bytes of the rootfs, after every artifact was compared with the manifest.
async fn artifacts(bench: &Bench, image: &Value) -> Result<Vec<u8>, String> {
    let keys = bench.keys().await;
    let get = async |path: &str| {
        let key = path.strip_prefix("s3://boot-images/").unwrap_or(path);
        if !keys.iter().any(|found| found == key) {
            return Err(format!("{path} is not in the store"));
        }
        Ok(bench.stand.get(path).await)
    };
    let manifest = get(image["link"]["path"].as_str().unwrap()).await?;
    if image["link"]["etag"] != hex::encode(Md5::digest(&manifest)) {
        return Err("the etag of the link is not the manifest's".into());
    }
    let manifest: Value = serde_json::from_slice(&manifest).map_err(|error| error.to_string())?;
    let mut rootfs = None;
    let artifacts = manifest["artifacts"].as_array().ok_or("a manifest without artifacts")?;
    for artifact in artifacts {
        let path = artifact["link"]["path"].as_str().unwrap_or_default();
        let bytes = get(path).await?;
        if artifact["md5"] != hex::encode(Md5::digest(&bytes)) {
            return Err(format!("{path} has not the md5 of the manifest"));
        }
        if artifact["link"]["etag"] != bench.stand.head(path).await.etag {
            return Err(format!("{path} has not the etag of the manifest"));
        }
        if path.ends_with("/rootfs") {
            rootfs = Some(bytes);
        }
    }
    if artifacts.len() != 4 {
        return Err(format!("{} artifacts and not 4", artifacts.len()));
    }
    rootfs.ok_or_else(|| "no rootfs".into())
}

async fn content(dir: &Path, rootfs: Vec<u8>) -> Tree {
    let (image, root) = (dir.join("result.sqsh"), dir.join("result"));
    let read = move || {
        fs::write(&image, rootfs).unwrap();
        tree::unsquash(&image, &root);
        let tree = timeless(tree::read(&root));
        fs::remove_dir_all(&root).unwrap();
        tree
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

fn same(found: &Tree, expected: &Tree) -> Result<(), String> {
    let paths = expected.keys().chain(found.keys());
    let differs = paths.filter(|path| found.get(*path) != expected.get(*path));
    let differs: std::collections::BTreeSet<_> = differs.collect();
    if differs.is_empty() { Ok(()) } else { Err(format!("the image differs in {differs:?}")) }
}

/// What a success should have removed.
fn leftovers(drive: &mut Drive) {
    let site = &drive.site;
    let expected = match site.shape.work {
        // The signal lies outside of the image, in a volume that goes with the job.
        Work::Customize => &["complete", "filler", "log"][..],
        // What others have built is theirs, also for `package`; kiwi's own files stay.
        Work::AfterBuild if site.record.is_by_hand() => &["build", ".ims-job-agent"],
        Work::AfterBuild => &["build"],
        _ => &["plain"],
    };
    let names = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let mut left = names(&site.parent);
    left.retain(|name| !expected.contains(&name.as_str()));
    let mut temporary = names(&site.dir.join("tmp"));
    // docs/limits.md: what is killed cannot remove it.
    temporary.retain(|name| !(drive.kills() && name.starts_with("ims-import-")));
    left.extend(temporary.into_iter().map(|name| format!("tmp/{name}")));
    if !left.is_empty() {
        drive.found(Kind::Orphan, format!("left in the job's directory: {left:?}"));
    }
}

/// What is left in IMS, in the store and on the machine that belongs to no image and no job.
pub async fn left(bench: &Bench, site: &Site) -> Vec<String> {
    let settled = Instant::now();
    while site.ims.busy() + site.s3.busy() > 0 && settled.elapsed() < SETTLES {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut left = left_in_store(bench).await;
    if is_probe_kept(&site.dir) {
        let probe = object_left(&site.job);
        left.retain(|what| *what != probe);
    }
    let (dir, parent) = (site.dir.display().to_string(), site.parent.display().to_string());
    // The directory itself may be a small volume.
    left.extend(left_on_the_machine(&dir, &format!("{parent}/"), &site.job).await);
    left
}

/// Whether an agent printed that the store does not let go of its probe: nobody else can do more.
fn is_probe_kept(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let logs = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with("-run.err"));
    let mut texts = logs.map(|entry| fs::read_to_string(entry.path()).unwrap_or_default());
    texts.any(|text| {
        let mut lines = text.lines();
        lines
            .any(|line| line.contains("ims-job-agent-probe/") && line.contains("delete it by hand"))
    })
}

fn object_left(name: &str) -> String {
    format!("object {name} of no image")
}

/// Records without a link or in the trash, objects of no image, unfinished uploads.
pub async fn left_in_store(bench: &Bench) -> Vec<String> {
    let mut left = Vec::new();
    let mut linked = Vec::new();
    for id in bench.images().await {
        let images = bench.stand.ims.get("v3/images").await;
        let image = images.as_array().unwrap().iter().find(|image| image["id"] == id.as_str());
        match image {
            Some(image) if image["link"]["path"].is_string() => linked.push(id),
            Some(_) => left.push(format!("image record {id} has no link")),
            None => left.push(format!("image record {id} is in the trash")),
        }
    }
    for key in bench.keys().await {
        if !linked.iter().any(|id| key.starts_with(id.as_str())) {
            left.push(object_left(without_id(&key)));
        }
    }
    left.extend(bench.uploads().await.into_iter().map(|upload| format!("upload {upload}")));
    left
}

fn without_id(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

/// Mounts and loop devices with `below` in their paths, processes of the job.
pub async fn left_on_the_machine(dir: &str, below: &str, job: &str) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let mut left = processes(dir, job);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mounts = mounts.lines().filter(|line| line.contains(below));
        left.extend(mounts.map(|line| format!("mount {line}")));
        for device in fs::read_dir("/sys/block").unwrap().flatten() {
            let file = fs::read_to_string(device.path().join("loop/backing_file"));
            if file.is_ok_and(|file| file.contains(below)) {
                left.push(format!("loop device {:?}", device.file_name()));
            }
        }
        // A mount namespace of another job, made meanwhile, may have a copy of the mount for a while.
        if left.is_empty() || begun.elapsed() > SETTLES {
            return left;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn processes(dir: &str, job: &str) -> Vec<String> {
    let mut left = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let path = process.path();
        let text = |name: &str| {
            String::from_utf8_lossy(&fs::read(path.join(name)).unwrap_or_default()).into_owned()
        };
        let link = |name: &str| fs::read_link(path.join(name)).unwrap_or_default();
        let environment = text("environ");
        let ours = environment.contains(job)
            || link("root").starts_with(dir)
            || link("cwd").starts_with(dir);
        if ours {
            let command = text("cmdline").replace('\0', " ");
            left.push(format!("process {} {command}", process.file_name().to_string_lossy()));
        }
    }
    left
}

fn last_line(log: &str) -> String {
    log.lines().last().unwrap_or("no log").chars().take(300).collect()
}

fn last_error(log: &str) -> String {
    let line = log.lines().rev().find(|line| line.contains("ERROR"));
    line.unwrap_or_else(|| log.lines().last().unwrap_or("no log")).chars().take(400).collect()
}
