//! The S3 endpoint with the tools that admins use: awscli and s3cmd.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{ACCESS, SECRET, Standalone};

fn run(command: &mut Command) -> String {
    let shown = format!("{command:?}");
    let output = command.stderr(Stdio::piped()).output().expect("the tool is installed");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn aws(standalone: &Standalone, home: &Path, args: &[&str]) -> String {
    let endpoint = standalone.s3.as_str().trim_end_matches('/');
    let mut command = Command::new("aws");
    command
        .args(["--endpoint-url", endpoint, "--region", "default"])
        .args(args)
        .env("HOME", home)
        .env("AWS_ACCESS_KEY_ID", ACCESS)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("AWS_EC2_METADATA_DISABLED", "true");
    run(&mut command)
}

fn s3cmd(standalone: &Standalone, args: &[&str]) -> String {
    let host = format!("{}:{}", standalone.s3.host_str().unwrap(), standalone.s3.port().unwrap());
    let mut command = Command::new("s3cmd");
    command
        // Its own default region, "US", is none to s3s.
        .args(["--config=/dev/null", "--no-ssl", "--no-progress", "--region=us-east-1"])
        .args([format!("--host={host}"), format!("--host-bucket={host}")])
        .args([format!("--access_key={ACCESS}"), format!("--secret_key={SECRET}")])
        .args(args);
    run(&mut command)
}

#[tokio::test(flavor = "multi_thread")]
async fn awscli_and_s3cmd_feel_at_home() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = Standalone::start(&dir.path().join("data")).await;
    let home = dir.path();
    // Beyond the size from which both tools upload in parts (8 MiB, 15 MiB).
    let bytes: Vec<u8> =
        (0..40u32 << 20).map(|n| (n.wrapping_mul(2654435761) >> 13) as u8).collect();
    let file = home.join("file");
    std::fs::write(&file, &bytes).unwrap();
    let file = file.to_str().unwrap();
    let back = home.join("back");
    let back = back.to_str().unwrap();

    aws(
        &standalone,
        home,
        &["s3", "cp", file, "s3://boot-images/x/rootfs", "--metadata", "md5sum=abc"],
    );
    let head = aws(
        &standalone,
        home,
        &["s3api", "head-object", "--bucket", "boot-images", "--key", "x/rootfs"],
    );
    assert!(head.contains("\"md5sum\": \"abc\"") && head.contains("-5\\\""), "{head}");
    aws(
        &standalone,
        home,
        &["s3", "mv", "s3://boot-images/x/rootfs", "s3://boot-images/y z/rootfs"],
    );
    aws(&standalone, home, &["s3", "cp", "s3://boot-images/y z/rootfs", back]);
    assert!(std::fs::read(back).unwrap() == bytes);
    assert!(aws(&standalone, home, &["s3", "ls"]).contains("boot-images"));
    assert!(aws(&standalone, home, &["s3", "ls", "s3://boot-images"]).contains("PRE y z/"));
    aws(&standalone, home, &["s3", "rm", "--recursive", "s3://boot-images"]);
    assert!(standalone.keys("boot-images").await.is_empty());

    s3cmd(&standalone, &["put", file, "s3://ims/recipes/1/recipe.tar.gz"]);
    let list = s3cmd(&standalone, &["ls", "--recursive", "s3://ims"]);
    assert!(list.contains("s3://ims/recipes/1/recipe.tar.gz"), "{list}");
    s3cmd(&standalone, &["cp", "s3://ims/recipes/1/recipe.tar.gz", "s3://ims/copy"]);
    s3cmd(&standalone, &["get", "--force", "s3://ims/copy", back]);
    assert!(std::fs::read(back).unwrap() == bytes);
    s3cmd(&standalone, &["del", "--recursive", "--force", "s3://ims"]);
    assert!(standalone.keys("ims").await.is_empty());
    s3cmd(&standalone, &["mb", "s3://other"]);
    s3cmd(&standalone, &["rb", "s3://other"]);
    standalone.stop().await;
}
