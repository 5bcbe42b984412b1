//! Layers that do harm: each ends in a clear error on a clean machine.

use serde_json::{Value, json};

use super::Bench;
use super::repository::Repository;

/// What a layer does, and what its error says.
const HARM: &[(&str, &str)] = &[
    ("- name: Reboot\n  command: reboot -f", "Reboot"),
    (
        "- name: Remove python\n  raw: rm -f /usr/bin/python3*\n- name: After python\n  ping:",
        "After python",
    ),
    ("- name: Kill all\n  raw: kill -9 -1\n- name: Fail\n  raw: \"false\"", "failed"),
    (
        "- name: Leave things\n  raw: nohup sleep 600 >/dev/null 2>&1 & true\n- name: Fail\n  \
         raw: \"false\"",
        "Fail",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn harmful_layers_end_in_an_error_on_a_clean_machine() {
    let bench = Bench::start().await;
    let repository = Repository::make(&bench.path("repository"));
    for (tasks, expected) in HARM {
        let commit = repository.commit("site.yml", tasks);
        bench.configure(&layer(&repository.url(), &commit), &[]).await.failed_with(expected);
    }
    let commit = repository.commit("site.yml", "- ping:");
    let nowhere = layer("file:///no/such/repository", &commit);
    bench.configure(&nowhere, &[]).await.failed_with("/no/such/repository");
    let unknown = layer(&repository.url(), "0123456789012345678901234567890123456789");
    bench.configure(&unknown, &[]).await.failed_with("has no commit 0123456789");
    let images = bench.stand.ims.get("v3/images").await;
    assert_eq!(images.as_array().unwrap().len(), 1, "nothing was published: {images}");
}

fn layer(url: &str, commit: &str) -> Value {
    json!([{"name": "bad", "clone_url": url, "commit": commit}])
}
