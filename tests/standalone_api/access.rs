//! Who may use the service: tokens, keys, addresses.

use ims_job_agent::standalone::{Error, S3Choice, Server};

use crate::support::{Standalone, config, loopback};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_probes_works_without_the_token_that_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&dir.path().join("data"), "/bin/false".as_ref());
    config.ims_listen = ([0, 0, 0, 0], 0).into();
    std::fs::write(dir.path().join("sesame"), "sesame\n").unwrap();
    config.token_file = Some(dir.path().join("sesame"));
    let standalone = Standalone::with(config).await;
    let http = reqwest::Client::new();
    let status = async |path: &str, token: Option<&str>| {
        let mut request = http.get(standalone.url(path));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(status("/healthz/ready", None).await, 200);
    for path in ["/images", "/v2/images", "/v3/images", "/v3/deleted/images", "/jobs", "/version"] {
        assert_eq!(status(path, None).await, 401, "{path}");
        assert_eq!(status(path, Some("wrong")).await, 401, "{path}");
        assert_eq!(status(path, Some("sesame")).await, 200, "{path}");
    }
    let grant = async |secret: &str| {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", "ims-job-agent"),
            ("client_secret", secret),
        ];
        let url = standalone.url("/oauth/token");
        http.post(url).form(&form).send().await.unwrap()
    };
    assert_eq!(grant("wrong").await.status(), 401);
    let token: serde_json::Value = grant("sesame").await.json().await.unwrap();
    assert_eq!(token["access_token"], "sesame");
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_has_one_user() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = Standalone::start(dir.path()).await;
    let second = Server::start(config(dir.path(), "/bin/false".as_ref())).await.err().unwrap();
    assert!(matches!(second, Error::Records { .. }), "{second}");
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn made_keys_work_and_stay() {
    let dir = tempfile::tempdir().unwrap();
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut config = config(dir.path(), "/bin/false".as_ref());
        config.s3 = S3Choice::Embedded { listen: loopback(), keys: None };
        let standalone = Standalone::with(config).await;
        kept.push(std::fs::read_to_string(dir.path().join("s3-keys.json")).unwrap());
        // The keys of the tests are not the ones that were made.
        assert!(standalone.store.list("ims", "", &crate::support::token()).await.is_err());
        standalone.stop().await;
    }
    assert_eq!(kept[0], kept[1]);
}
