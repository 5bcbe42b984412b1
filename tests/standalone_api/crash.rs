//! Standalone killed in the middle of its work.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Standalone, agent, agent_path, alive, config, until};

/// Where the process that is to be killed has its data; set by the test that kills it.
const DATA: &str = "STANDALONE_TO_KILL";
const ROUNDS: usize = 4;

/// Cares for no SIGTERM, and counts how often it was started.
const STUBBORN: &str = r#"trap '' TERM
    echo $$ > /mnt/image/new; mv /mnt/image/new /mnt/image/pid
    echo run >> /mnt/image/runs
    while :; do sleep 0.1; done"#;

/// Not a test: a standalone that works until it is killed, and writes down what it was told to be done.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the test below"]
async fn to_be_killed() {
    let Some(data) = std::env::var_os(DATA) else { return };
    let data = Path::new(&data);
    let standalone = Standalone::with(config(data, &agent_path(data))).await;
    if !data.join("job.json").exists() {
        let job = standalone.job().await;
        std::fs::write(data.join("new"), job.to_string()).unwrap();
        std::fs::rename(data.join("new"), data.join("job.json")).unwrap();
    }
    let mut done =
        std::fs::File::options().append(true).create(true).open(data.join("done")).unwrap();
    // Records and objects without end, so that the kill hits a change.
    for n in 0.. {
        let id = standalone.post("/v3/images", json!({ "name": n.to_string() })).await;
        let link = standalone.upload_image(&id).await;
        let path = format!("/v3/images/{id}");
        let (status, _) = standalone.call("PATCH", &path, Some(json!({ "link": link }))).await;
        assert_eq!(status, 200);
        writeln!(done, "made {id}").unwrap();
        if n % 3 == 0 {
            writeln!(done, "deleting {id}").unwrap();
            assert_eq!(standalone.call("DELETE", &path, None).await.0, 204);
            writeln!(done, "deleted {id}").unwrap();
        }
    }
}

fn start(data: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "crash::to_be_killed"])
        .env(DATA, data)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Every image that a client was told to be there, or to be gone.
async fn check(standalone: &Standalone, done: &[String]) {
    let keys = standalone.keys("boot-images").await;
    let images = standalone.get("/v3/images").await;
    let deleted = standalone.get("/v3/deleted/images").await;
    let find = |all: &Value, id: &str| {
        all.as_array().unwrap().iter().find(|image| image["id"] == *id).cloned()
    };
    for line in done {
        let (what, id) = line.split_once(' ').unwrap();
        let image = match what {
            "made" if !done.contains(&format!("deleting {id}")) => find(&images, id),
            "deleted" => find(&deleted, id),
            "deleting" => find(&images, id).or_else(|| find(&deleted, id)),
            _ => continue,
        };
        let image = image.unwrap_or_else(|| panic!("{line}, and it is not there"));
        let key =
            image["link"]["path"].as_str().unwrap().strip_prefix("s3://boot-images/").unwrap();
        let manifest = standalone.read("boot-images", key).await;
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        for artifact in manifest["artifacts"].as_array().unwrap() {
            let path = artifact["link"]["path"].as_str().unwrap();
            let key = path.strip_prefix("s3://boot-images/").unwrap();
            assert!(keys.iter().any(|found| found == key), "{key} is lost");
            assert!(!standalone.read("boot-images", key).await.is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_no_acknowledged_write_and_the_job_goes_on_where_users_know_it() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent(dir.path(), STUBBORN);
    let (job, done) = (dir.path().join("job.json"), dir.path().join("done"));
    let mut agents = Vec::new();
    for round in 1..=ROUNDS {
        let before = lines(&done).len();
        let mut victim = start(dir.path());
        until(async || job.exists()).await;
        let record: Value = serde_json::from_slice(&std::fs::read(&job).unwrap()).unwrap();
        let mnt = dir.path().join("jobs").join(record["id"].as_str().unwrap()).join("mnt");
        until(async || lines(&done).len() > before + 4 && lines(&mnt.join("runs")).len() == round)
            .await;
        // Anywhere in the next changes.
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..200))).await;
        victim.kill().unwrap();
        victim.wait().unwrap();
        agents.push(std::fs::read_to_string(mnt.join("pid")).unwrap());
        // No agent acts without its standalone.
        until(async || agents.iter().all(|pid| !alive(pid))).await;
    }
    let began = Instant::now();
    let standalone = Standalone::with(config(dir.path(), &agent)).await;
    let record: Value = serde_json::from_slice(&std::fs::read(&job).unwrap()).unwrap();
    let id = record["id"].as_str().unwrap();
    let now = standalone.get(&format!("/v3/jobs/{id}")).await;
    assert!(began.elapsed() < Duration::from_secs(5), "it serves first: {:?}", began.elapsed());
    assert_eq!(now["status"], record["status"]);
    assert_eq!(now["ssh_containers"], record["ssh_containers"]);
    let runs = standalone.job_dir(id).join("mnt/runs");
    until(async || lines(&runs).len() == ROUNDS + 1).await;
    let port = &record["ssh_containers"][0]["connection_info"]["cluster.local"]["port"];
    std::net::TcpStream::connect(("127.0.0.1", port.as_u64().unwrap() as u16)).unwrap();
    check(&standalone, &lines(&done)).await;
    assert_eq!(standalone.call("DELETE", &format!("/v3/jobs/{id}"), None).await.0, 204);
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_outlived_its_standalone_is_ended_beside_the_service() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent(dir.path(), STUBBORN);
    let standalone = Standalone::with(config(dir.path(), &agent)).await;
    let job = standalone.job().await;
    let id = job["id"].as_str().unwrap().to_owned();
    standalone.stop().await;
    // As one of an older standalone does: it lives, and has told the end of its job.
    let mut old = Command::new("sh")
        .args(["-c", STUBBORN.replace("/mnt/image", ".").as_str()])
        .current_dir(dir.path())
        .spawn()
        .unwrap();
    let pid = dir.path().join("pid");
    until(async || pid.exists()).await;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", old.id())).unwrap();
    let started: u64 =
        stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap();
    let process = dir.path().join("jobs").join(&id).join("process.json");
    std::fs::write(&process, json!({ "pid": old.id(), "started": started }).to_string()).unwrap();
    let began = Instant::now();
    let standalone = Standalone::with(config(dir.path(), &agent)).await;
    assert_eq!(standalone.get(&format!("/v3/jobs/{id}")).await["status"], "error");
    standalone.image().await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(alive(&old.id().to_string()), "it has time to tidy up");
    old.kill().unwrap();
    old.wait().unwrap();
    until(async || !process.exists()).await;
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_given_up_after_some_restarts_and_its_work_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent(dir.path(), STUBBORN);
    let mut victim = start(dir.path());
    let job = dir.path().join("job.json");
    until(async || job.exists()).await;
    let record: Value = serde_json::from_slice(&std::fs::read(&job).unwrap()).unwrap();
    let id = record["id"].as_str().unwrap();
    let directory = dir.path().join("jobs").join(id);
    until(async || directory.join("mnt/pid").exists()).await;
    victim.kill().unwrap();
    victim.wait().unwrap();
    std::fs::write(directory.join("restarts"), "10\n").unwrap();
    let standalone = Standalone::with(config(dir.path(), &agent)).await;
    standalone.wait_for(id, "error").await;
    assert!(directory.join("mnt/pid").exists(), "what was done stays");
    standalone.stop().await;
}
