//! Soft deletes of v3 and cascades of v2: what becomes of the artifacts.

use serde_json::{Value, json};

use crate::support::{Standalone, agent, config, manifest};

async fn expect(standalone: &Standalone, status: u16, method: &str, path: &str, body: Value) {
    let body = Some(body).filter(|body| !body.is_null());
    let (found, answer) = standalone.call(method, path, body).await;
    assert_eq!(found, status, "{method} {path}: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_image_takes_its_artifacts_along_and_brings_them_back() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = Standalone::start(dir.path()).await;
    let id = standalone.image().await;
    let path = format!("/v3/images/{id}");
    let before = standalone.get(&path).await;
    let keys = standalone.keys("boot-images").await;
    assert_eq!(keys.len(), 3);

    expect(&standalone, 204, "DELETE", &path, Value::Null).await;
    expect(&standalone, 404, "GET", &path, Value::Null).await;
    let mut moved: Vec<String> = keys.iter().map(|key| format!("deleted/{key}")).collect();
    moved.push(format!("deleted/{id}/deleted_manifest.json"));
    moved.sort();
    assert_eq!(standalone.keys("boot-images").await, moved);
    let deleted = standalone.get(&format!("/v3/deleted/images/{id}")).await;
    assert!(deleted["deleted"].is_string());
    let list = standalone.read("boot-images", &format!("deleted/{id}/deleted_manifest.json")).await;
    let list: Value = serde_json::from_slice(&list).unwrap();
    assert_eq!(list["artifacts"].as_array().unwrap().len(), 3);

    let undelete = json!({ "operation": "undelete" });
    let trash = format!("/v3/deleted/images/{id}");
    expect(&standalone, 204, "PATCH", &trash, undelete).await;
    assert_eq!(standalone.get(&path).await, before);
    assert_eq!(standalone.keys("boot-images").await, keys);
    expect(&standalone, 404, "GET", &trash, Value::Null).await;

    expect(&standalone, 204, "DELETE", &path, Value::Null).await;
    expect(&standalone, 204, "DELETE", &trash, Value::Null).await;
    assert!(standalone.keys("boot-images").await.is_empty());
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v2_removes_artifacts_unless_told_not_to() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = Standalone::start(dir.path()).await;
    let (kept, gone) = (standalone.image().await, standalone.image().await);
    expect(&standalone, 400, "DELETE", &format!("/v2/images/{kept}?cascade=x"), Value::Null).await;
    expect(&standalone, 204, "DELETE", &format!("/images/{kept}?cascade=False"), Value::Null).await;
    expect(&standalone, 204, "DELETE", &format!("/v2/images/{gone}"), Value::Null).await;
    let keys = standalone.keys("boot-images").await;
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|key| key.starts_with(&kept)));
    assert_eq!(standalone.get("/v3/deleted/images").await, json!([]));
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_its_manifest_can_still_be_deleted_and_undeleted() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = Standalone::start(dir.path()).await;
    let id = standalone.image().await;
    let object = s3_client::Object::new("boot-images", format!("{id}/manifest.json"));
    standalone.store.delete(&object, &crate::support::token()).await.unwrap();
    expect(&standalone, 204, "DELETE", &format!("/v3/images/{id}"), Value::Null).await;
    let body = json!({ "operation": "undelete" });
    expect(&standalone, 204, "PATCH", "/v3/deleted/images", body).await;
    assert_eq!(standalone.get("/v3/images").await.as_array().unwrap().len(), 1);
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_and_objects_outlive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent(dir.path(), "exec sleep 1000");
    let first = Standalone::with(config(dir.path(), &agent)).await;
    let image = first.image().await;
    let key = json!({ "name": "k", "public_key": "ssh-ed25519 AAAA" });
    let key = first.post("/public-keys", key).await;
    let before = first.get(&format!("/images/{image}")).await;
    first.stop().await;

    let second = Standalone::with(config(dir.path(), &agent)).await;
    assert_eq!(second.get(&format!("/images/{image}")).await, before);
    second.get(&format!("/public-keys/{key}")).await;
    assert_eq!(second.read("boot-images", &format!("{image}/rootfs")).await, b"rootfs");
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_beyond_the_limit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = Standalone::start(dir.path()).await;
    let id = standalone.post("/images", json!({ "name": "big" })).await;
    let mut big = manifest(vec![]);
    big["padding"] = json!("x".repeat(1024 * 1024));
    let link = standalone.upload_manifest(&id, &big).await;
    let path = format!("/images/{id}");
    expect(&standalone, 400, "PATCH", &path, json!({ "link": link })).await;
    standalone.stop().await;
}
