//! The procedure "Incrementally Configuring Images" against standalone alone.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::Bench;
use super::repository::Repository;
use super::support::stand::Objects;
use super::support::{SOON, eventually};

impl Bench {
    #[allow(clippy::disallowed_methods, reason = "a plain client of plain HTTP")]
    async fn cfs(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let url = format!("{}/apis/cfs/{path}", self.stand.ims.base);
        let mut request =
            reqwest::Client::new().request(method, url).bearer_auth(self.stand.token());
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_procedure_works_on_one_machine() {
    let bench = Bench::start(Objects::Embedded).await;
    let repository = Repository::make(&bench.path("repository"));
    repository.commit("site.yml", "- shell: \"echo site >> /srv/site\"");
    let layers = json!([
        {"name": "first", "clone_url": repository.url(), "branch": "main"},
        {"name": "second", "clone_url": repository.url(), "branch": "main", "playbook": "no.yml"},
    ]);
    let path = "v3/configurations/compute";
    let (status, made) = bench.cfs(Method::PUT, path, Some(json!({"layers": layers}))).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    let (_, described) = bench.cfs(Method::GET, path, None).await;
    assert_eq!(described["layers"][0]["playbook"], "site.yml");
    let (_, list) = bench.cfs(Method::GET, "v3/configurations", None).await;
    assert_eq!(list["configurations"][0]["name"], "compute");

    let session = |limit: &str| {
        json!({"name": "partial", "configuration_name": "compute", "configuration_limit": limit,
            "target": {"definition": "image",
                "groups": [{"name": "Compute", "members": [bench.image]}],
                "image_map": [{"source_id": bench.image, "result_name": "wanted name"}]}})
    };
    let (status, problem) = bench.cfs(Method::POST, "v3/sessions", Some(session("7"))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(problem["detail"].as_str().unwrap().contains("0 (first), 1 (second)"), "{problem}");
    let (status, made) = bench.cfs(Method::POST, "v3/sessions", Some(session("0"))).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let (status, _) = bench.cfs(Method::POST, "v3/sessions", Some(session("0"))).await;
    assert_eq!(status, StatusCode::CONFLICT);

    let described = ended(&bench).await;
    assert_eq!(described["status"]["session"]["succeeded"], "true", "{described}");
    let artifact = &described["status"]["artifacts"][0];
    assert_eq!(artifact["image_id"], bench.image.as_str());
    let id = artifact["result_id"].as_str().unwrap();
    assert_eq!(bench.stand.ims.get(&format!("v3/images/{id}")).await["name"], "wanted name");
    let (_, old) = bench.cfs(Method::GET, "v2/sessions/partial", None).await;
    assert!(old["status"]["session"]["completionTime"].is_string(), "{old}");
    let site = bench.unpacked(id).await.join("srv/site");
    assert_eq!(std::fs::read_to_string(site).unwrap(), "site\n");

    let delete = async |path: &str| bench.cfs(Method::DELETE, path, None).await.0;
    assert_eq!(delete("v3/sessions/partial").await, StatusCode::NO_CONTENT);
    assert_eq!(delete("v3/sessions/partial").await, StatusCode::NOT_FOUND);
    let (status, _) = bench.cfs(Method::POST, "v3/sessions", Some(session("second"))).await;
    assert_eq!(status, StatusCode::CREATED);
    let described = ended(&bench).await;
    assert_eq!(described["status"]["session"]["succeeded"], "false", "{described}");
    let error = described["status"]["error"].as_str().unwrap();
    assert!(error.contains("layer 1 (second)") && error.contains("no.yml"), "{error}");
    assert_eq!(delete("v3/sessions/partial").await, StatusCode::NO_CONTENT);
    assert_eq!(delete(path).await, StatusCode::NO_CONTENT);
}

async fn ended(bench: &Bench) -> Value {
    eventually("the session is complete", 3 * SOON, async || {
        let (_, described) = bench.cfs(Method::GET, "v3/sessions/partial", None).await;
        (described["status"]["session"]["status"] == "complete").then_some(described)
    })
    .await
}
