//! What is left of a job that died while it published.

use serde_json::json;

use crate::sdk::client;
use crate::support::{Standalone, agent, config};

/// Makes the image record, an object that says whose it is, an unfinished upload, and dies.
const DIES: &str = r#"post() { curl -fsS -X "$1" -H "Authorization: Bearer $OAUTH_CLIENT_SECRET" -H 'Content-Type: application/json' -d "$3" "$IMS_URL/v3/$2"; }
    image=$(post POST images '{"name": "result"}' | sed 's/.*"id":"\([^"]*\)".*/\1/')
    echo "$image" > /mnt/image/made.new; mv /mnt/image/made.new /mnt/image/made
    while [ ! -e /mnt/image/go ]; do sleep 0.05; done
    [ ! -e /mnt/image/journal ] || {
        mkdir -p /mnt/image/.ims-job-agent
        cp /mnt/image/journal /mnt/image/.ims-job-agent/publication.json; }
    kill -9 $$"#;

async fn made(standalone: &Standalone, job: &str) -> String {
    let path = standalone.job_dir(job).join("mnt/made");
    crate::support::until(async || path.exists()).await;
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

async fn uploads(standalone: &Standalone) -> usize {
    let s3 = client(standalone);
    let list = s3.list_multipart_uploads().bucket("boot-images").send().await.unwrap();
    list.uploads().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_job_had_begun_to_publish_is_withdrawn() {
    for journal in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let standalone = Standalone::with(config(dir.path(), &agent(dir.path(), DIES))).await;
        let job = standalone.job().await;
        let id = job["id"].as_str().unwrap();
        let image = made(&standalone, id).await;
        // Of somebody else, of the same name: it stays.
        let other = standalone.post("/v3/images", json!({ "name": "result" })).await;
        standalone.put("boot-images", &format!("{other}/rootfs"), b"other").await;
        let s3 = client(&standalone);
        let put = s3.put_object().bucket("boot-images").key(format!("{image}/rootfs"));
        put.metadata("x-shasta-ims-job-id", id).send().await.unwrap();
        let begin = s3.create_multipart_upload().bucket("boot-images");
        begin.key(format!("{image}/kernel")).send().await.unwrap();
        let mnt = standalone.job_dir(id).join("mnt");
        if journal {
            let text = json!({ "version": 1, "image_id": image, "bucket": "boot-images",
                "stage": "uploading", "job_id": id });
            std::fs::write(mnt.join("journal"), text.to_string()).unwrap();
        }
        std::fs::write(mnt.join("go"), "").unwrap();
        standalone.wait_for(id, "error").await;
        assert_eq!(standalone.call("GET", &format!("/v3/images/{image}"), None).await.0, 404);
        assert_eq!(standalone.call("GET", &format!("/v3/images/{other}"), None).await.0, 200);
        let keys = standalone.keys("boot-images").await;
        assert!(!keys.iter().any(|key| key.starts_with(&image)), "{keys:?}");
        assert!(keys.contains(&format!("{other}/rootfs")));
        assert_eq!(uploads(&standalone).await, 0);
        standalone.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_job_whose_image_is_linked_has_succeeded() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = Standalone::with(config(dir.path(), &agent(dir.path(), DIES))).await;
    let job = standalone.job().await;
    let id = job["id"].as_str().unwrap();
    let image = made(&standalone, id).await;
    let link = standalone.upload_image(&image).await;
    let path = format!("/v3/images/{image}");
    assert_eq!(standalone.call("PATCH", &path, Some(json!({ "link": link }))).await.0, 200);
    let mnt = standalone.job_dir(id).join("mnt");
    let text =
        json!({ "version": 1, "image_id": image, "bucket": "boot-images", "stage": "uploading" });
    std::fs::write(mnt.join("journal"), text.to_string()).unwrap();
    std::fs::write(mnt.join("go"), "").unwrap();
    standalone.wait_for(id, "success").await;
    let record = standalone.get(&format!("/v3/jobs/{id}")).await;
    assert_eq!(record["resultant_image_id"], image);
    standalone.stop().await;
}
