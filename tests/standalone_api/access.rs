//! Who may use the service: tokens, keys, addresses.

use std::net::SocketAddr;

use ims_job_agent::standalone::{Error, S3Choice, Server};
use secrecy::SecretString;

use crate::support::{Standalone, config, loopback};

#[tokio::test]
async fn listening_for_others_needs_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let any: SocketAddr = ([0, 0, 0, 0], 0).into();
    let mut ims = config(dir.path(), "/bin/false".as_ref());
    ims.ims_listen = any;
    let mut s3 = config(dir.path(), "/bin/false".as_ref());
    s3.s3 = S3Choice::Embedded { listen: any, keys: None };
    for config in [ims, s3] {
        let refused = Server::start(config).await.err().unwrap();
        assert!(matches!(refused, Error::TokenMissing { .. }), "{refused}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was started");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_nothing_but_probes_works_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), "/bin/false".as_ref());
    config.ims_listen = ([0, 0, 0, 0], 0).into();
    config.token = Some(SecretString::from("sesame"));
    let standalone = Standalone::with(config).await;
    let status = async |path: &str, token: Option<&str>| {
        let mut request = standalone.http.get(standalone.url(path));
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
        standalone.http.post(url).form(&form).send().await.unwrap()
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
