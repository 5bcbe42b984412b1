//! What kiwi is told, and what it is not: a script in its place writes down what it was called with.

use std::fs;

use crate::lab::{Recipe, Repository, pod};
use crate::support::tree;

const KIWI: &str = "#!/bin/sh\n\
    for word in \"$@\"; do echo \"$word\"; done >\"$0.arguments\"\n\
    env >\"$0.environment\"\n\
    echo '[ ERROR   ]: 12:00:00 | KiwiNotReal: this is no kiwi'\n\
    exit 1\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_is_that_of_the_contract_and_secrets_are_kept() {
    let repository = Repository::serve().await;
    let mut pod = pod(&Recipe::new().archive(), &repository.url).await;
    let dir = pod.pod.stand.dir.path().to_owned();
    let kiwi = dir.join("bin/kiwi-ng");
    fs::create_dir_all(dir.join("bin")).unwrap();
    tree::write(&kiwi, KIWI.as_bytes(), 0o755);
    fs::create_dir(dir.join("keys")).unwrap();
    for number in 0..9 {
        fs::write(dir.join(format!("keys/{number}.asc")), "").unwrap();
    }
    pod.signing_keys(&dir.join("keys"));
    let path = format!("{}:{}", dir.join("bin").display(), pod.pod.vars["PATH"]);
    pod.pod.vars.insert("PATH", path);
    pod.pod.vars.insert("SITE_PROXY", "passed on".into());
    let statuses = ["fetching_recipe", "waiting_for_repos", "building_image", "error"];
    pod.run().ends(1, &statuses, &["KiwiNotReal: this is no kiwi"]).await;

    let read = |name: &str| fs::read_to_string(kiwi.with_file_name(name)).unwrap();
    let parent = pod.pod.parent.display();
    let agent = format!("{parent}/.ims-job-agent");
    let mut expected = vec![
        format!("--config={agent}/kiwi.yml"),
        format!("--logfile={parent}/kiwi.log"),
        format!("--shared-cache-dir={agent}/kiwi-cache"),
    ];
    let words = ["--type", "tbz", "system", "build", "--description"];
    expected.extend(words.map(str::to_owned));
    expected.extend([format!("{parent}/recipe"), "--target".into(), parent.to_string()]);
    let package = dir.join("ca-rpm/cray_ca_cert-1.0.1-1.noarch.rpm");
    expected.extend(["--add-bootstrap-package".into(), format!("file://{}", package.display())]);
    for number in 0..9 {
        let key = dir.join(format!("keys/{number}.asc"));
        expected.extend(["--signing-key".into(), key.display().to_string()]);
    }
    let arguments = read("kiwi-ng.arguments");
    assert_eq!(arguments.lines().collect::<Vec<_>>(), expected);
    let config = fs::read_to_string(format!("{agent}/kiwi.yml")).unwrap();
    assert!(config.contains("-0 --threads="), "{config}");

    let environment = read("kiwi-ng.environment");
    assert!(environment.contains("SITE_PROXY=passed on"));
    for secret in ["S3_SECRET_KEY", "S3_ACCESS_KEY", "test-secret"] {
        assert!(!environment.contains(secret), "{secret} is in {environment}");
    }
}
