//! Recipes in and out.

use std::process::Command;

use crate::run::{fails, path, succeeds};
use crate::support::stand::{Objects, Stand};
use crate::support::tree::run;

async fn a_recipe_is_imported_once_and_comes_back(objects: Objects) {
    let stand = Stand::start(objects).await;
    let dir = stand.dir.path();
    std::fs::create_dir(dir.join("recipe")).unwrap();
    std::fs::write(dir.join("recipe/config.xml"), "<image/>").unwrap();
    let archive = dir.join("recipe.tgz");
    run(Command::new("tar").arg("-C").arg(dir.join("recipe")).arg("-czf").arg(&archive).arg("."));
    let arguments = [
        "recipe",
        "import",
        "--name",
        "r",
        "--linux-distribution",
        "sles15",
        "--require-dkms",
        "false",
        "--template-dictionary",
        "KEY=a=b",
        path(&archive),
    ];
    let first = succeeds(&stand, &arguments).await;
    let record = &first["ims_recipe_record"];
    assert_eq!(record["template_dictionary"][0]["value"], "a=b");
    assert_eq!(record["require_dkms"], false);
    let second = succeeds(&stand, &arguments).await;
    assert_eq!(
        (&second["existing"], &second["ims_recipe_record"]["id"]),
        (&true.into(), &record["id"])
    );
    let id = record["id"].as_str().unwrap();
    succeeds(&stand, &["recipe", "verify", id]).await;
    succeeds(&stand, &["recipe", "get", id, path(&dir.join("got"))]).await;
    let got = std::fs::read(dir.join("got/recipe.tar.gz")).unwrap();
    assert!(got == std::fs::read(&archive).unwrap());
    let listed = succeeds(&stand, &["recipe", "ls"]).await;
    assert!(listed.as_array().unwrap().iter().any(|it| it["id"] == record["id"]));

    run(Command::new("tar").arg("-C").arg(dir.join("recipe")).arg("-cf").arg(&archive).arg("."));
    let log = fails(&stand, &arguments).await;
    assert!(log.contains("gzip"), "{log}");
}

crate::on_both_stores! {
    a_recipe_is_imported_once_and_comes_back
}
