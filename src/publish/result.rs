//! The result that a job prints at its end: JSON with sorted keys and 4 spaces (contract section
//! 5).

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Value, json};

use super::register::Published;
use ims_client::Job;

/// The result of a job that succeeded. `job` is its record as it is now.
pub fn result_json(published: &Published, job: Option<&Job>) -> String {
    let artifacts: Vec<_> = published.artifacts.iter().chain([&published.manifest]).collect();
    pretty(&json!({
        "ims_image_artifacts": artifacts,
        "ims_image_record": published.image,
        "ims_job_record": job,
        "result": "success",
    }))
}

/// The result of a job that failed, with the reason.
pub fn failure_json(error: &str) -> String {
    pretty(&json!({ "error": error, "result": "failure" }))
}

/// JSON with sorted keys and 4 spaces.
pub fn pretty(value: &Value) -> String {
    let mut text = Vec::new();
    let formatter = PrettyFormatter::with_indent(b"    ");
    sorted(value)
        .serialize(&mut Serializer::with_formatter(&mut text, formatter))
        .expect("a JSON value can be written to memory");
    String::from_utf8(text).expect("JSON is UTF-8")
}

/// Sorts the keys at every depth, whatever order the JSON library keeps them in.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            entries.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect()
        }
        Value::Array(values) => values.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::manifest::{Artifact, Kind};
    use ims_client::{Image, Link};

    fn artifact(kind: Kind) -> Artifact {
        Artifact {
            link: Link::s3("s3://b/k", "e"),
            media_type: kind.media_type().to_owned(),
            md5: "m".to_owned(),
        }
    }

    #[test]
    fn the_result_is_that_of_the_documented_procedure() {
        let image = json!({"name": "n", "link": null, "id": "1", "zone": {"b": 1, "a": 2}});
        let published = Published {
            image: serde_json::from_value::<Image>(image).unwrap(),
            artifacts: vec![artifact(Kind::Rootfs)],
            manifest: artifact(Kind::Manifest),
            job: None,
        };
        let text = result_json(&published, None);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..5],
            [
                "{",
                "    \"ims_image_artifacts\": [",
                "        {",
                "            \"link\": {",
                "                \"etag\": \"e\","
            ]
        );
        assert!(text.find("\"a\": 2") < text.find("\"b\": 1"), "{text}");
        assert!(text.ends_with("    \"result\": \"success\"\n}"), "{text}");
        let last = text.rfind("application/json").unwrap();
        assert!(last > text.find("rootfs.squashfs").unwrap(), "{text}");
    }

    #[test]
    fn a_failure_says_why() {
        assert_eq!(
            failure_json("no kernel"),
            "{\n    \"error\": \"no kernel\",\n    \"result\": \"failure\"\n}"
        );
    }
}
