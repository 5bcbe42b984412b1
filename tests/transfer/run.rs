//! The program, run against a stand.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::support::stand::Stand;
use crate::support::tree;

/// Runs it to its end, off the async threads.
pub async fn output(stand: &Stand, arguments: &[&str]) -> Output {
    let mut command = stand.command(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// The JSON result of a command that must succeed.
pub async fn succeeds(stand: &Stand, arguments: &[&str]) -> Value {
    let output = output(stand, &[arguments, &["--format", "json"]].concat()).await;
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The log of a command that must fail.
pub async fn fails(stand: &Stand, arguments: &[&str]) -> String {
    let output = output(stand, arguments).await;
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stderr)
}

/// Imports a root and gives the image's id.
pub async fn import(stand: &Stand, name: &str, root: &Path) -> String {
    let result = succeeds(stand, &["image", "import", "--name", name, path(root)]).await;
    result["ims_image_record"]["id"].as_str().unwrap().to_owned()
}

/// The small root in the stand's directory.
pub fn small_root(stand: &Stand) -> PathBuf {
    let root = stand.dir.path().join("root");
    tree::make_small_root(&root);
    root
}

/// Ids of all image records.
pub async fn images(stand: &Stand) -> Vec<String> {
    let records = stand.ims.get("v3/images").await;
    records.as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect()
}

/// Checks every complete image of the stand with the program itself.
pub async fn all_good(stand: &Stand) {
    for id in images(stand).await {
        if !stand.ims.get(&format!("v3/images/{id}")).await["link"].is_null() {
            succeeds(stand, &["image", "verify", &id]).await;
        }
    }
}

pub fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
