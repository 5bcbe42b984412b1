//! Names of objects that lists must carry unharmed.

use std::path::Path;
use std::process::Command;

use crate::sdk::{client, status};
use crate::support::{ACCESS, SECRET, Standalone};

const NASTY: &str = r#"
import importlib, sys
try:
    name = "botocore"
    importlib.import_module(name)
except ImportError:
    name = "awscli.botocore"  # Debian's awscli has its own
session = importlib.import_module(name + ".session").Session()
Config = importlib.import_module(name + ".config").Config
s3 = session.create_client("s3", endpoint_url=sys.argv[1], region_name="default",
    aws_access_key_id=sys.argv[2], aws_secret_access_key=sys.argv[3],
    config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}))
b = "ims"
keys = sorted(["a+b", "a%2fb", "a%2Fb", "a b", "a  b", "\u00fc", "a&b<c>\"'", "new\nline", "tab\t",
    "cr\rx", "cr\r\nx", "dir/", "//", "a//b", "a/b", "%", "%%41", "=?#", "~*()!", "\U0001f600", " lead", "trail ",
    "a+b/c d/e%2ff", "a+b/c d/\u00e9"], key=lambda k: k.encode())
for k in keys:
    s3.put_object(Bucket=b, Key=k, Body=k.encode())

def walk(op, **more):
    found, prefixes = [], []
    for page in s3.get_paginator(op).paginate(Bucket=b, **more):
        found += [o["Key"] for o in page.get("Contents", [])]
        prefixes += [p["Prefix"] for p in page.get("CommonPrefixes", [])]
    return found, prefixes

for op in ["list_objects", "list_objects_v2"]:
    for size in [1, 2, 3, 7, 1000]:
        found, _ = walk(op, PaginationConfig={"PageSize": size})
        assert found == keys, (op, size, found, keys)
        _, prefixes = walk(op, Delimiter="/", PaginationConfig={"PageSize": size})
        assert prefixes == ["/", "a+b/", "a/", "dir/"], prefixes
        found, prefixes = walk(op, Prefix="a+b/", Delimiter="d", PaginationConfig={"PageSize": size})
        assert prefixes == ["a+b/c d"], prefixes
    found, _ = walk(op, Prefix="a ")
    assert found == ["a  b", "a b"], found
got = s3.list_objects_v2(Bucket=b, StartAfter="a b", MaxKeys=2)
assert got["StartAfter"] == "a b", got
got = s3.list_objects(Bucket=b, Marker="a b", Delimiter="+", MaxKeys=2)
assert got["Marker"] == "a b" and got["Delimiter"] == "+", got

upload = s3.create_multipart_upload(Bucket=b, Key="up+load d%2f")["UploadId"]
got = s3.list_multipart_uploads(Bucket=b)["Uploads"]
assert [u["Key"] for u in got] == ["up+load d%2f"], got
got = s3.list_multipart_uploads(Bucket=b, EncodingType="url")["Uploads"]
assert [u["Key"] for u in got] == ["up%2Bload%20d%252f"], got
s3.abort_multipart_upload(Bucket=b, Key="up+load d%2f", UploadId=upload)

# List, then delete: one of each by itself, the rest at once.
for op, half in [("list_objects", keys[::2]), ("list_objects_v2", keys[1::2])]:
    found, _ = walk(op, PaginationConfig={"PageSize": 2})
    for k in [k for k in found if k in half][:4]:
        assert s3.get_object(Bucket=b, Key=k)["Body"].read() == k.encode()
        s3.delete_object(Bucket=b, Key=k)
    found, _ = walk(op)
    rest = [k for k in found if k in half]
    answer = s3.delete_objects(Bucket=b, Delete={"Objects": [{"Key": k} for k in rest]})
    assert "Errors" not in answer, answer
assert walk("list_objects") == ([], []), walk("list_objects")

for k in ["a\x01b", "\x00", "\x1f", "\ufffe"]:
    try:
        s3.put_object(Bucket=b, Key=k, Body=b"")
        raise SystemExit(f"{k!r} is taken")
    except Exception as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 400, error.response
        assert error.response["Error"]["Code"] == "InvalidArgument", error.response
print("all went well")
"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_botocore_lists_it_can_delete() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = Standalone::start(dir.path()).await;
    let script = dir.path().join("nasty.py");
    std::fs::write(&script, NASTY).unwrap();
    let output = Command::new("/usr/bin/python3")
        .arg(&script)
        .args([standalone.s3.as_str().trim_end_matches('/'), ACCESS, SECRET])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("all went well"), "{text}{errors}");
    standalone.stop().await;
}

fn aws(standalone: &Standalone, home: &Path, args: &[&str]) -> String {
    let output = Command::new("aws")
        .args(["--endpoint-url", standalone.s3.as_str().trim_end_matches('/')])
        .args(["--region", "default", "s3"])
        .args(args)
        .env("HOME", home)
        .env("AWS_ACCESS_KEY_ID", ACCESS)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn awscli_removes_what_it_lists() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = Standalone::start(&dir.path().join("data")).await;
    let mut keys = vec!["a b", "a%2fb", "a&b<c>", "a+b", "d/x y+z", "\u{fc}"];
    for key in &keys {
        standalone.put("ims", key, key.as_bytes()).await;
    }
    let list = aws(&standalone, dir.path(), &["ls", "--recursive", "s3://ims"]);
    for key in &keys {
        assert!(list.contains(&format!(" {key}\n")), "{key} in {list}");
    }
    // What another key was taken for stays.
    standalone.put("ims", "a/b", b"").await;
    aws(&standalone, dir.path(), &["rm", "s3://ims/a%2fb"]);
    assert!(standalone.keys("ims").await.contains(&"a/b".to_owned()));
    keys.retain(|key| *key != "a%2fb");
    aws(&standalone, dir.path(), &["rm", "--recursive", "s3://ims"]);
    assert!(standalone.keys("ims").await.is_empty());
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_list_with_a_name_that_xml_changes_is_refused_and_foreign_tokens_too() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = Standalone::start(dir.path()).await;
    let s3 = client(&standalone);
    s3.put_object().bucket("ims").key("cr\rx").send().await.unwrap();
    assert_eq!(status(s3.list_objects_v2().bucket("ims").send().await), 400);
    let token = s3.list_objects_v2().bucket("ims").continuation_token("cr");
    assert_eq!(status(token.send().await), 400);
    standalone.stop().await;
}
