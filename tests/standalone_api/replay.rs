//! The transcript of the real service, request by request: same status, content type, fields, types.

use std::collections::HashMap;

use serde_json::{Value, json};

use ims_job_agent::standalone::{Keys, S3Choice};
use net::Trust;

use crate::support::{ACCESS, SECRET, Standalone, agent, artifact, config, manifest};

const NO_SUCH_ID: &str = "00000000-0000-4000-8000-000000000000";
/// Etags of the objects in the transcript: stand for those of ours.
const MANIFEST_ETAG: &str = "b7f0f0b9b310933b7e9f0febdb3dce61";
const RECIPE_ETAG: &str = "05d1190d81e37d06607cc19e21f63ea7";

/// Where the real service is at fault, and what is answered here: status and fields.
fn mended(number: usize) -> Option<(u16, Value)> {
    let problem = json!({ "status": 422, "title": "Unprocessable Entity", "detail": "<text>" });
    match number {
        // A manifest that is not JSON: v3 takes it, v2 breaks.
        43 | 45 => Some((422, problem)),
        // An age that cannot be read: it deletes every job.
        128 => Some((400, json!({ "status": 400, "title": "<text>" }))),
        // So the job is still there to be deleted.
        129 => Some((204, Value::Null)),
        _ => None,
    }
}

/// What the placeholders of the transcript stand for.
#[derive(Default)]
struct Names(HashMap<String, String>);

impl Names {
    fn fill(&self, text: &str) -> String {
        let mut text = text.replace("<no such id>", NO_SUCH_ID);
        for (placeholder, value) in &self.0 {
            text = text.replace(placeholder, value);
        }
        text
    }

    /// Compares an answer with the expected one; learns ids seen for the first time.
    fn compare(&mut self, at: &str, expected: &Value, found: &Value) -> Result<(), String> {
        let differs = || Err(format!("{at}: expected {expected}, found {found}"));
        match (expected, found) {
            (Value::Object(fields), Value::Object(others)) => {
                if !fields.keys().all(|key| others.contains_key(key))
                    || fields.len() != others.len()
                {
                    return differs();
                }
                fields.iter().try_for_each(|(key, value)| {
                    self.compare(&format!("{at}.{key}"), value, &others[key])
                })
            }
            (Value::Array(items), Value::Array(others)) => {
                let open = items.last() == Some(&json!("..."));
                let items = if open { &items[..items.len() - 1] } else { items };
                if others.len() < items.len() || (!open && others.len() != items.len()) {
                    return differs();
                }
                items.iter().zip(others).try_for_each(|(a, b)| self.compare(at, a, b))
            }
            // Ports and hosts are this machine's.
            (Value::Number(_), Value::Number(_)) if at.ends_with(".port") => Ok(()),
            (Value::String(_), Value::String(_)) if at.ends_with(".host") => Ok(()),
            // The service forgets the etag of the list of deleted artifacts.
            (Value::String(empty), Value::String(_))
                if at.ends_with(".link.etag") && empty.is_empty() =>
            {
                Ok(())
            }
            (Value::String(text), found) if text == "<texts>" => match found {
                Value::Array(texts) if !texts.is_empty() => Ok(()),
                Value::Object(texts) if !texts.is_empty() => Ok(()),
                _ => differs(),
            },
            (Value::String(text), Value::String(found)) => self.compare_text(at, text, found),
            (a, b) if a == b => Ok(()),
            _ => differs(),
        }
    }

    fn compare_text(&mut self, at: &str, expected: &str, found: &str) -> Result<(), String> {
        let fits = match expected {
            "<text>" => !found.is_empty(),
            "<time, no zone>" => {
                found.len() == 26 && found.parse::<jiff::civil::DateTime>().is_ok()
            }
            _ if at == ".version" => true,
            _ if expected.starts_with("<id ") && !self.0.contains_key(expected) => {
                self.0.insert(expected.to_owned(), found.to_owned());
                uuid::Uuid::parse_str(found).is_ok_and(|id| id.get_version_num() == 4)
            }
            _ => self.fill(expected) == found,
        };
        if fits { Ok(()) } else { Err(format!("{at}: expected {expected:?}, found {found:?}")) }
    }
}

/// Puts the object there that a request of the transcript is about, as its note says.
async fn prepare(standalone: &Standalone, names: &mut Names, request: &str, note: Option<&str>) {
    let id = request.rsplit('/').next().unwrap();
    let rootfs = |key: &str| artifact("rootfs.squashfs", &format!("s3://boot-images/{key}"), "e");
    let there = rootfs("some/rootfs");
    let manifest = match note {
        Some("manifest: not json") => {
            standalone.put("boot-images", &format!("{id}/manifest.json"), b"{bad").await;
            return;
        }
        Some("manifest: no version") => json!({ "artifacts": [there] }),
        Some("manifest: version 2") => json!({ "version": "2.0", "artifacts": [there] }),
        Some("manifest: no artifacts") => json!({ "version": "1.0" }),
        Some("manifest: artifacts not list") => json!({ "version": "1.0", "artifacts": {} }),
        Some("manifest: empty artifacts") => manifest(vec![]),
        Some("manifest: artifact without link") => manifest(vec![json!({ "type": "x" })]),
        Some("manifest: artifact missing in s3") => manifest(vec![rootfs("none/rootfs")]),
        Some("manifest: two rootfs") => manifest(vec![there.clone(), there]),
        Some("good manifest, wrong etag") => manifest(vec![there]),
        Some("good manifest, right etag") => {
            let link = standalone.upload_image(id).await;
            names.0.insert(MANIFEST_ETAG.into(), link["etag"].as_str().unwrap().into());
            return;
        }
        _ => return,
    };
    standalone.upload_manifest(id, &manifest).await;
}

async fn replay_all(standalone: &Standalone) {
    let transcript: Vec<Value> =
        serde_json::from_str(include_str!("../data/ims-transcript.json")).unwrap();
    assert_eq!(transcript.len(), 150);
    standalone.put("boot-images", "some/rootfs", b"rootfs").await;
    let mut names = Names::default();
    let mut faults = Vec::new();
    for (number, entry) in transcript.iter().enumerate() {
        if let Err(fault) = replay(standalone, &mut names, number, entry).await {
            faults.push(format!("{number} {}: {fault}", entry["request"]));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_transcript_of_the_real_service() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = Standalone::start(dir.path()).await;
    replay_all(&standalone).await;
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_transcript_with_an_external_store() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Standalone::start(elsewhere.path()).await;
    let mut config = config(dir.path(), &agent(dir.path(), "exec sleep 1000"));
    config.s3 = S3Choice::External {
        endpoint: store.s3.clone(),
        keys: Keys { access: ACCESS.into(), secret: SECRET.into() },
        trust: Trust::System,
    };
    let standalone = Standalone::with(config).await;
    replay_all(&standalone).await;
    standalone.stop().await;
    store.stop().await;
}

async fn replay(
    standalone: &Standalone,
    names: &mut Names,
    number: usize,
    entry: &Value,
) -> Result<(), String> {
    let request = names.fill(entry["request"].as_str().unwrap());
    let (method, path) = request.split_once(' ').unwrap();
    prepare(standalone, names, &request, entry["note"].as_str()).await;
    if number == 98 {
        let key = format!("{}/recipe.tar.gz", path.replace("/v3/", ""));
        let etag = standalone.put("ims", &key, b"archive").await;
        names.0.insert(RECIPE_ETAG.into(), etag);
    }
    let mut expected_status = entry["status"].as_u64().unwrap() as u16;
    let mut call = standalone.http.request(method.parse().unwrap(), standalone.url(path));
    match entry.get("body") {
        None => {}
        Some(Value::String(raw)) => {
            let kind = if expected_status == 415 { "text/plain" } else { "application/json" };
            call = call.header("content-type", kind).body(raw.clone());
        }
        Some(body) => {
            let body: Value = serde_json::from_str(&names.fill(&body.to_string())).unwrap();
            call = call.json(&body);
        }
    }
    let answer = call.send().await.unwrap();
    let mut expected = entry.get("answer").cloned().unwrap_or(Value::Null);
    let mut expected_type = entry["content_type"].as_str().unwrap();
    if let Some((status, body)) = mended(number) {
        expected_type = if status == 204 { "application/json" } else { "application/problem+json" };
        (expected_status, expected) = (status, body);
    }
    let status = answer.status().as_u16();
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    let text = answer.text().await.unwrap();
    let found = serde_json::from_str(&text).unwrap_or(Value::Null);
    if status != expected_status {
        return Err(format!("expected status {expected_status}, found {status}: {text}"));
    }
    if kind != expected_type {
        return Err(format!("expected {expected_type}, found {kind}"));
    }
    names.compare("", &expected, &found)
}
