//! What a request is, in a name that is the same in every run: `s3.PUT.rootfs.part1`, `ims.PATCH.job-success`.

use axum::http::request::Parts;
use serde_json::Value;

use crate::proxy::Service;

/// Names a request. `base` is the id of the image that the job starts from.
pub fn label(service: Service, parts: &Parts, body: &[u8], base: &str) -> String {
    let segments: Vec<_> = parts.uri.path().split('/').filter(|part| !part.is_empty()).collect();
    let what = match service {
        Service::Ims => record(&segments, base, body),
        Service::S3 => object(&segments, parts, base),
    };
    format!("{}.{}.{what}", service.name(), parts.method)
}

/// `images`, `image`, `job-success`, ...
fn record(segments: &[&str], base: &str, body: &[u8]) -> String {
    let segments = match segments {
        ["v2" | "v3", rest @ ..] => rest,
        all => all,
    };
    match segments {
        ["jobs", _] => match change(body) {
            Some(change) => format!("job-{change}"),
            None => "job".into(),
        },
        ["images", id] if *id == base => "base".into(),
        ["images", _] => "image".into(),
        other => other.join("-"),
    }
}

/// Which status a body sets, or that it sets the result.
fn change(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let status = body["status"].as_str().map(str::to_owned);
    status.or_else(|| body["resultant_image_id"].is_string().then(|| "result".into()))
}

/// `rootfs.part2.copy`, `base-rootfs`, `bucket.uploads`, ...
fn object(segments: &[&str], parts: &Parts, base: &str) -> String {
    let mut what = match segments {
        [_bucket] => "bucket".to_owned(),
        [_bucket, "ims-job-agent-probe", _job] => "probe".to_owned(),
        [_bucket, id, name] if *id == base => format!("base-{name}"),
        [_bucket, _id, name] => (*name).to_owned(),
        other => other.join("-"),
    };
    let query = parts.uri.query().unwrap_or_default();
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "partNumber" => what += &format!(".part{value}"),
            "uploads" => what += ".uploads",
            "uploadId" if !query.contains("partNumber") => what += ".upload",
            "list-type" => what += ".list",
            "delete" => what += ".delete",
            _ => {}
        }
    }
    if parts.headers.contains_key("x-amz-copy-source") {
        what += ".copy";
    }
    what
}
