//! Repositories that cannot be cloned: a clear error, soon, and the command goes on when they can.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Bench;
use super::repository::Repository;
use super::support::free_port;
use super::support::stand::Objects;

fn layers(url: &str, key: &str, state: &str) -> Value {
    json!([{"name": "bad", "clone_url": url, key: state}])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_that_fails_says_why() {
    let bench = Bench::start(Objects::Embedded).await;
    let repository = Repository::make(&bench.path("repository"));
    repository.commit("site.yml", "- shell: \"echo one > /srv/one\"");
    let (url, nobody) = (repository.url(), format!("http://127.0.0.1:{}/r.git", free_port()));
    let zeros = "0123456789012345678901234567890123456789";
    for (layers, expected) in [
        (layers("file:///no/such/repository", "branch", "main"), "/no/such/repository"),
        (layers("https://[", "branch", "main"), "https://["),
        (layers(&nobody, "branch", "main"), "onnect"),
        (layers(&url, "branch", "nope"), "nope"),
        (layers(&url, "commit", zeros), "has no commit 0123456789"),
    ] {
        let ran = bench.configure(&layers, &[]).await.failed_with(expected);
        let error = ran.result["error"].as_str().unwrap();
        assert!(error.contains("run the same command again to continue from there"), "{error}");
    }
    // Accepts connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let hanging = format!("http://u:secret@{}/r.git", silent.local_addr().unwrap());
    let mut command = bench.command(&layers(&hanging, "branch", "main"), &[]);
    command.env("GIT_HTTP_LOW_SPEED_TIME", "2");
    let start = Instant::now();
    let ran = bench.run(command).await.failed_with("too slow");
    assert!(start.elapsed() < Duration::from_secs(40));
    assert!(!ran.log.contains("secret"), "{}", ran.log);

    let ran = bench.configure(&layers(&url, "branch", "main"), &[]).await.succeeded();
    let one = bench.unpacked(&ran.result_id()).await.join("srv/one");
    assert_eq!(std::fs::read_to_string(one).unwrap(), "one\n");
}
