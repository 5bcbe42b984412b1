//! The IMS API as a user calls it: plain requests, plain JSON.

use serde_json::{Value, json};

/// A client of an IMS under test.
#[derive(Clone)]
pub struct Ims {
    pub base: String,
    token: Option<String>,
    http: reqwest::Client,
}

impl Ims {
    pub fn new(base: impl Into<String>) -> Self {
        Self { base: base.into(), token: None, http: reqwest::Client::new() }
    }

    /// With the token that the service wants.
    pub fn with_token(&self, token: String) -> Self {
        Self { token: Some(token), ..self.clone() }
    }

    pub async fn get(&self, path: &str) -> Value {
        self.send(self.http.get(self.url(path))).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.send(self.http.post(self.url(path)).json(&body)).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Value {
        self.send(self.http.patch(self.url(path)).json(&body)).await
    }

    pub async fn delete(&self, path: &str) -> Value {
        self.send(self.http.delete(self.url(path))).await
    }

    pub async fn job(&self, id: &str) -> Value {
        self.get(&format!("v3/jobs/{id}")).await
    }

    pub async fn add_public_key(&self, key: &str) -> String {
        id(&self.post("v3/public-keys", json!({"name": "test", "public_key": key})).await)
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.base)
    }

    async fn send(&self, mut request: reqwest::RequestBuilder) -> Value {
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.unwrap();
        let (status, url) = (answer.status(), answer.url().clone());
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{url}: {status}: {text}");
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() }
    }
}

/// The `id` of a record.
pub fn id(record: &Value) -> String {
    record["id"].as_str().unwrap_or_else(|| panic!("no id in {record}")).to_owned()
}
