//! The additional inventory of a configuration.

use serde_json::{Value, json};

use super::Bench;
use super::repository::Repository;
use super::support::stand::Objects;

#[tokio::test(flavor = "multi_thread")]
async fn an_additional_inventory_gives_hosts_and_variables() {
    let bench = Bench::start(Objects::Embedded).await;
    let repository = Repository::make(&bench.path("repository"));
    let tasks = r#"- shell: "echo {{ of_group }} {{ of_host }} {{ groups['other'] | join(',') }} > /srv/seen""#;
    let commit = repository.commit("site.yml", tasks);
    let layer = json!({"name": "a", "clone_url": repository.url(), "commit": commit});
    let inventory = Repository::make(&bench.path("inventory"));
    let configuration =
        |source: Value| json!({"name": "c", "layers": [layer], "additional_inventory": source});
    let branch = json!({"name": "more", "clone_url": inventory.url(), "branch": "main"});

    inventory.commit_file("README.md", "# Nothing yet\n");
    let ran = bench.run(bench.command_of(&configuration(branch.clone()), &[])).await;
    assert_eq!(ran.code, 1, "{}", ran.log);
    let error = ran.result["error"].as_str().unwrap();
    assert!(error.contains("ansible finds no inventory"), "{error}");

    inventory.commit_file("hosts", "[other]\nx1000c0s0b0n0\n");
    inventory.commit_file("group_vars/Compute/site.yml", "of_group: from-group\n");
    let name = format!("host_vars/{}.yml", bench.image);
    let inventory_commit = inventory.commit_file(&name, "of_host: from-host\n");
    let ran = bench.run(bench.command_of(&configuration(branch), &[])).await.succeeded();
    let id = ran.result_id();
    let seen = std::fs::read_to_string(bench.unpacked(&id).await.join("srv/seen")).unwrap();
    assert_eq!(seen, "from-group from-host x1000c0s0b0n0\n");
    let layer = bench.json_of(&id, "provenance.json").await["layers"][0].clone();
    assert_eq!(layer["inventory_commit"], inventory_commit.as_str());

    let named = configuration(json!({"source": "of-cfs", "branch": "main"}));
    let ran = bench.run(bench.command_of(&named, &[])).await;
    assert_eq!(ran.code, 2, "{}", ran.log);
    assert!(ran.log.contains("the additional inventory uses the source"), "{}", ran.log);
}
