//! Jobs as child processes, with shell scripts in the agent's place.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Standalone, agent, alive, config, until};

async fn start(dir: &Path, script: &str) -> Standalone {
    Standalone::with(config(dir, &agent(dir, script))).await
}

fn id(job: &Value) -> &str {
    job["id"].as_str().unwrap()
}

/// Waits for a file of the job's own /mnt/image that is written whole, and gives its text.
async fn file(standalone: &Standalone, job: &str, name: &str) -> String {
    let path = standalone.job_dir(job).join("mnt").join(name);
    until(async || path.exists()).await;
    std::fs::read_to_string(path).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_dies_is_an_error_and_one_that_says_success_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = start(dir.path(), "echo broken >&2; exit 7").await;
    let job = standalone.job().await;
    standalone.wait_for(id(&job), "error").await;
    let log = std::fs::read_to_string(standalone.job_dir(id(&job)).join("log")).unwrap();
    assert_eq!(log, "broken\n");
    assert!(standalone.job_dir(id(&job)).join("mnt").exists(), "kept for a retry");
    standalone.stop().await;

    let success = r#"echo '{"result": "success"}'
        curl -fsS -X PATCH -H "Authorization: Bearer $OAUTH_CLIENT_SECRET" -H 'Content-Type: application/json' -d '{"status": "success"}' \
            "$IMS_URL/v3/jobs/$IMS_JOB_ID" >&2"#;
    let standalone = start(dir.path(), success).await;
    let job = standalone.job().await;
    let job_dir = standalone.job_dir(id(&job));
    until(async || job_dir.exists() && !job_dir.join("mnt").exists()).await;
    let status = standalone.get(&format!("/jobs/{}", id(&job))).await["status"].clone();
    assert_eq!(status, "success");
    let result = std::fs::read_to_string(job_dir.join("result.json")).unwrap();
    assert_eq!(result, "{\"result\": \"success\"}\n");
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_side_by_side_have_their_own_mnt_image_port_and_environment() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"env > /mnt/image/env.new
        echo "$@" > /mnt/image/args
        ls -l /proc/self/fd > /mnt/image/fds
        mv /mnt/image/env.new /mnt/image/env
        exec sleep 1000"#;
    let standalone = start(dir.path(), script).await;
    let jobs = [standalone.job().await, standalone.job().await];
    let mut ports = Vec::new();
    for job in &jobs {
        let job_id = id(job);
        let env = file(&standalone, job_id, "env").await;
        let has = |line: &str| assert!(env.lines().any(|l| l == line), "{line} in\n{env}");
        has(&format!("IMS_JOB_ID={job_id}"));
        has(&format!("IMS_URL={}", standalone.url("")));
        has("IMS_ACTION=customize");
        has("IMAGE_ROOT_PARENT=/mnt/image");
        has("IMAGE_ROOT_ARCHIVE_NAME=result");
        has("SSH_JAIL=False");
        has("JOB_ENABLE_DKMS=True");
        has("BUILD_ARCH=x86_64");
        has("S3_BUCKET=boot-images");
        assert!(!env.contains(crate::support::SECRET));
        assert!(!env.contains(&format!("S3_ACCESS_KEY={}", crate::support::ACCESS)));
        has(&format!("OAUTH_CLIENT_ENDPOINT={}", standalone.url("/oauth/token")));
        assert!(!env.contains("CARGO"), "the environment is the job's alone");
        let url = env.lines().find_map(|line| line.strip_prefix("DOWNLOAD_URL=")).unwrap();
        let answer = reqwest::get(url).await.unwrap();
        assert_eq!(answer.bytes().await.unwrap(), "rootfs");

        let args = file(&standalone, job_id, "args").await;
        assert!(args.starts_with("run --ssh-listen fd://"), "{args}");
        assert!(!args.contains(crate::support::SECRET));
        let fd = args.split("fd://").nth(1).unwrap().split(' ').next().unwrap();
        let fds = file(&standalone, job_id, "fds").await;
        assert!(fds.contains(&format!(" {fd} -> socket:")), "{fds}");
        let keys = std::fs::read_to_string(args.trim().rsplit(' ').next().unwrap()).unwrap();
        assert_eq!(keys, "ssh-ed25519 AAAA test\n");

        let connections = &job["ssh_containers"][0]["connection_info"];
        assert_eq!(connections["cluster.local"], connections["customer_access"]);
        assert_eq!(connections["cluster.local"]["host"], "127.0.0.1");
        let port = connections["cluster.local"]["port"].as_u64().unwrap();
        std::net::TcpStream::connect(("127.0.0.1", port as u16)).unwrap();
        ports.push(port);
    }
    assert_ne!(ports[0], ports[1]);
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_ends_a_job_with_all_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"setsid sleep 1000 & echo $! > /mnt/image/left
        trap 'exit 0' TERM
        mkdir /mnt/image/m && mount -t tmpfs none /mnt/image/m && touch /mnt/image/m/f
        echo $$ > /mnt/image/pid.new; mv /mnt/image/pid.new /mnt/image/pid
        while :; do sleep 0.1; done"#;
    let standalone = start(dir.path(), script).await;
    let (job, other) = (standalone.job().await, standalone.job().await);
    let pid = file(&standalone, id(&job), "pid").await;
    let left = file(&standalone, id(&job), "left").await;
    let other_pid = file(&standalone, id(&other), "pid").await;
    assert!(alive(&pid) && alive(&left));

    let (status, _) = standalone.call("DELETE", &format!("/v3/jobs/{}", id(&job)), None).await;
    assert_eq!(status, 204);
    assert!(!alive(&pid));
    until(async || !alive(&left)).await;
    assert!(!standalone.job_dir(id(&job)).exists());
    let (status, _) = standalone.call("GET", &format!("/v3/jobs/{}", id(&job)), None).await;
    assert_eq!(status, 404);

    assert!(alive(&other_pid), "the other job goes on");
    for keep in ["?job_type=create", "?status=success", "?age=1h"] {
        assert_eq!(standalone.call("DELETE", &format!("/jobs{keep}"), None).await.0, 204);
        assert!(alive(&other_pid), "{keep}");
    }
    for bad in ["?job_type=x", "?status=x", "?age=1x"] {
        assert_eq!(standalone.call("DELETE", &format!("/jobs{bad}"), None).await.0, 400);
        assert!(alive(&other_pid), "{bad}");
    }
    let (status, _) = standalone.call("DELETE", "/jobs?job_type=customize&age=0m", None).await;
    assert_eq!(status, 204);
    assert!(!alive(&other_pid));
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_standalone_ends_jobs_which_are_errors_then() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent(
        dir.path(),
        "echo $$ > /mnt/image/new; mv /mnt/image/new /mnt/image/pid; exec sleep 1000",
    );
    let standalone = Standalone::with(config(dir.path(), &agent)).await;
    let job = standalone.job().await;
    let pid = file(&standalone, id(&job), "pid").await;
    let began = Instant::now();
    standalone.stop().await;
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(!alive(&pid));
    let standalone = Standalone::with(config(dir.path(), &agent)).await;
    let record = standalone.get(&format!("/v3/jobs/{}", id(&job))).await;
    assert_eq!(record["status"], "error");
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_be_started_is_an_error_of_the_job() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = Standalone::with(config(dir.path(), "/nonexistent".as_ref())).await;
    let job = standalone.job().await;
    standalone.wait_for(id(&job), "error").await;
    assert_eq!(standalone.call("DELETE", "/jobs", None).await.0, 204);
    standalone.stop().await;
}
