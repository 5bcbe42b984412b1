//! Standalone killed in the middle of its work.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Standalone, agent, alive, config, until};

/// Where the process that is to be killed has its data; set by the test that kills it.
const DATA: &str = "STANDALONE_TO_KILL";

/// Survives the signal of its parent's death, not a second one.
const STUBBORN: &str = r#"trap 'n=x$n; touch /mnt/image/asked; [ "$n" = xx ] && exit' TERM
    echo $$ > /mnt/image/new; mv /mnt/image/new /mnt/image/pid
    while :; do sleep 0.1; done"#;

/// Not a test: a standalone that works until it is killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the test below"]
async fn to_be_killed() {
    let Some(data) = std::env::var_os(DATA) else { return };
    let data = Path::new(&data);
    let standalone = Standalone::with(config(data, &agent(data, STUBBORN))).await;
    let job = standalone.job().await;
    std::fs::write(data.join("new"), job.to_string()).unwrap();
    std::fs::rename(data.join("new"), data.join("job.json")).unwrap();
    // Records and objects without end, so that the kill hits a change.
    for n in 0.. {
        let id = standalone.post("/v3/images", json!({ "name": n.to_string() })).await;
        let link = standalone.upload_image(&id).await;
        let path = format!("/v3/images/{id}");
        standalone.call("PATCH", &path, Some(json!({ "link": link }))).await;
        if n % 3 == 0 {
            standalone.call("DELETE", &path, None).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loses_no_record_and_leaves_no_process() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent(dir.path(), STUBBORN);
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "crash::to_be_killed"])
        .env(DATA, dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let job = dir.path().join("job.json");
    until(async || job.exists()).await;
    let job: Value = serde_json::from_slice(&std::fs::read(&job).unwrap()).unwrap();
    let id = job["id"].as_str().unwrap();
    let pid = dir.path().join("jobs").join(id).join("mnt/pid");
    let process = dir.path().join("jobs").join(id).join("process.json");
    let blobs = dir.path().join("s3/blobs");
    let busy = async || {
        let blobs = std::fs::read_dir(&blobs).map_or(0, |entries| entries.count());
        pid.exists() && process.exists() && blobs > 30
    };
    until(busy).await;
    victim.kill().unwrap();
    victim.wait().unwrap();
    let asked = pid.with_file_name("asked");
    until(async || asked.exists()).await;
    let pid = std::fs::read_to_string(pid).unwrap();
    assert!(alive(&pid));

    let standalone = Standalone::with(config(dir.path(), &agent)).await;
    assert!(!alive(&pid));
    let record = standalone.get(&format!("/v3/jobs/{id}")).await;
    assert_eq!(record["status"], "error");
    let mut images = standalone.get("/v3/images").await.as_array().unwrap().clone();
    images.extend(standalone.get("/v3/deleted/images").await.as_array().unwrap().clone());
    assert!(images.len() > 5, "{}", images.len());
    let keys = standalone.keys("boot-images").await;
    for link in images.iter().map(|image| &image["link"]).filter(|link| !link.is_null()) {
        let key = link["path"].as_str().unwrap().strip_prefix("s3://boot-images/").unwrap();
        let manifest = standalone.read("boot-images", key).await;
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        for artifact in manifest["artifacts"].as_array().unwrap() {
            let path = artifact["link"]["path"].as_str().unwrap();
            let key = path.strip_prefix("s3://boot-images/").unwrap();
            assert!(keys.iter().any(|found| found == key), "{key} is lost");
        }
    }
    standalone.stop().await;
}
