//! A job that waits for a repair instead of losing its user's work: of the image by its user, of the
//! store or IMS by whoever runs them.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::pod::{Agent, Pod, Volume};
use crate::support::proxy::{ALWAYS, Fault};
use crate::support::tls::TlsFront;
use crate::support::{SOON, eventually, free_port, tree};

const SUCCEEDED: [&str; 4] =
    ["fetching_image", "waiting_on_user", "packaging_artifacts", "success"];

/// A pod whose job is held for `hold`, and gives users `grace` for repairs.
async fn patient_pod(hold: &str, grace: &str) -> Pod {
    let mut pod = Pod::start().await;
    pod.vars.insert("IMS_JOB_HOLD", hold.into());
    pod.vars.insert("IMS_JOB_GRACE", grace.into());
    pod.vars.insert("IMS_JOB_GRACE_UNATTENDED", grace.into());
    pod
}

/// A job that waits for its user, and where its status is served.
async fn waiting(pod: &Pod) -> (Agent<'_>, String) {
    let address = format!("127.0.0.1:{}", free_port());
    let mut agent = pod.run_through(&[], &["--status-listen", &address]);
    agent.reaches("waiting_on_user").await;
    fs::write(pod.root().join("etc/motd"), "work of hours\n").unwrap();
    (agent, format!("http://{address}/status"))
}

/// Waits until the job shows that it is held, and why.
async fn held(status: &str, why: &str) -> Value {
    eventually(&format!("held: {why}"), SOON, async || {
        let shown: Value = reqwest::get(status).await.ok()?.json().await.ok()?;
        let reason = shown["hold"]["reason"].as_str()?.to_owned();
        reason.contains(why).then_some(shown)
    })
    .await
}

/// The result has what its user did.
async fn assert_published(pod: &Pod, file: &str, content: &str) {
    pod.assert_image().await;
    let rootfs = pod.stand.get(&format!("s3://boot-images/{}/rootfs", pod.result().unwrap())).await;
    let image = pod.stand.dir.path().join("result.sqsh");
    fs::write(&image, rootfs).unwrap();
    let result = pod.stand.dir.path().join("result");
    tree::unsquash(&image, &result);
    assert_eq!(fs::read_to_string(result.join(file)).unwrap(), content);
}

/// A person in a shell on a terminal; what it shows goes to a file.
fn shell(pod: &Pod, port: u16, shown: &Path) -> Child {
    let mut ssh = pod.stand.key.ssh(port);
    ssh.arg("-tt").stdin(Stdio::piped()).stdout(fs::File::create(shown).unwrap());
    ssh.spawn().unwrap()
}

async fn shows(shown: &Path, text: &str) {
    eventually(&format!("{text:?} on the terminal"), SOON, async || {
        fs::read_to_string(shown).unwrap().contains(text).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_holds_the_job_until_it_is_repaired() {
    let pod = patient_pod("1h", "0").await;
    let (agent, status) = waiting(&pod).await;
    pod.s3.fail("PUT", Fault::Status(403), ALWAYS);
    pod.s3.fail("POST", Fault::Status(403), ALWAYS);
    pod.touch("complete");
    agent.says("the job is held until this is repaired").await;
    let shown = held(&status, "403").await;
    assert_eq!(shown["status"], "packaging_artifacts");
    assert!(shown["hold"]["until"].is_string(), "{shown}");

    // Its users see why it takes so long.
    eventually("sessions are served again", SOON, async || {
        (agent.process.log().matches("ssh server is listening").count() == 2).then_some(())
    })
    .await;
    let terminal = pod.stand.dir.path().join("terminal");
    let mut person = shell(&pod, agent.port, &terminal);
    shows(&terminal, "THIS JOB IS HELD: cannot publish the image").await;
    pod.assert_no_image().await;

    pod.s3.heal();
    agent.ends(0, &SUCCEEDED, &["the problem that held the job is repaired"]).await;
    assert_published(&pod, "etc/motd", "work of hours\n").await;
    person.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ims_that_refuses_holds_the_job() {
    for request in ["POST /images", "PATCH /images"] {
        let pod = patient_pod("1h", "0").await;
        let (agent, status) = waiting(&pod).await;
        pod.ims.fail(request, Fault::Status(403), ALWAYS);
        pod.touch("complete");
        held(&status, "403").await;
        pod.ims.heal();
        agent.ends(0, &SUCCEEDED, &["the problem that held the job is repaired"]).await;
        pod.assert_image().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn patience_ends() {
    let pod = patient_pod("2", "0").await;
    let (agent, _) = waiting(&pod).await;
    pod.s3.fail("POST", Fault::Status(403), ALWAYS);
    pod.touch("complete");
    let statuses = ["fetching_image", "waiting_on_user", "packaging_artifacts", "error"];
    agent.ends(1, &statuses, &["nobody repaired this within 2 seconds", "403"]).await;
    pod.s3.heal();
    pod.assert_no_image().await;
    pod.package(&[]).ends(0, &["packaging_artifacts", "success"], &[]).await;
    assert_published(&pod, "etc/motd", "work of hours\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_read_anew_while_the_job_is_held() {
    let mut pod = patient_pod("1h", "0").await;
    let directory = pod.stand.dir.path().join("s3-credentials");
    fs::create_dir(&directory).unwrap();
    pod.vars.insert("S3_CREDENTIALS_DIR", directory.display().to_string());
    let (agent, status) = waiting(&pod).await;
    pod.s3.fail("POST", Fault::Status(403), ALWAYS);
    fs::write(directory.join("secret_key"), "rotated\n").unwrap();
    pod.touch("complete");
    held(&status, "403").await;
    pod.s3.heal();
    // The store refuses this key by itself.
    held(&status, "SignatureDoesNotMatch").await;
    // Unreadable for a moment, as while it is replaced.
    fs::remove_file(directory.join("secret_key")).unwrap();
    fs::create_dir(directory.join("secret_key")).unwrap();
    held(&status, "cannot connect to IMS and the store").await;
    fs::remove_dir(directory.join("secret_key")).unwrap();
    fs::write(directory.join("secret_key"), "test-secret\n").unwrap();
    agent.ends(0, &SUCCEEDED, &["the problem that held the job is repaired"]).await;
    assert_published(&pod, "etc/motd", "work of hours\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oauth_secret_is_read_anew_while_the_job_is_held() {
    let mut pod = patient_pod("1h", "0").await;
    let directory = pod.stand.dir.path().join("oauth");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("client-id"), "admin-client").unwrap();
    fs::write(directory.join("client-secret"), "first").unwrap();
    fs::write(directory.join("endpoint"), format!("{}/token", pod.ims.url())).unwrap();
    pod.vars.insert("OAUTH_CONFIG_DIR", directory.display().to_string());
    {
        let mut records = pod.records.lock().unwrap();
        (records.guarded, records.client_secret) = (true, Some("first"));
    }
    let (agent, status) = waiting(&pod).await;
    {
        let mut records = pod.records.lock().unwrap();
        (records.revoked, records.client_secret) = (records.tokens, Some("second"));
    }
    pod.touch("complete");
    held(&status, "401").await;
    fs::write(directory.join("client-secret"), "second").unwrap();
    agent.ends(0, &SUCCEEDED, &["the problem that held the job is repaired"]).await;
    assert_published(&pod, "etc/motd", "work of hours\n").await;
}

/// A CA file that does not fit is repaired as a site does it: the file is replaced, and nothing is started
/// again.
#[tokio::test(flavor = "multi_thread")]
async fn the_ca_file_is_read_anew_while_the_job_is_held() {
    let mut pod = patient_pod("1h", "0").await;
    let front = TlsFront::start(&pod.s3.url(), pod.stand.dir.path()).await;
    let authorities = pod.stand.dir.path().join("ca.pem");
    fs::copy(pod.stand.dir.path().join("first.pem"), &authorities).unwrap();
    pod.vars.insert("S3_ENDPOINT", front.url());
    pod.vars.insert("S3_SSL_VALIDATE", authorities.display().to_string());
    let (agent, status) = waiting(&pod).await;
    let renewed = front.replace_certificate();
    pod.touch("complete");
    held(&status, "invalid peer certificate").await;
    pod.assert_no_image().await;
    // Half written, as while it is replaced.
    fs::write(&authorities, &renewed[..renewed.len() / 2]).unwrap();
    held(&status, "CA file").await;
    fs::write(&authorities, renewed).unwrap();
    agent.ends(0, &SUCCEEDED, &["the problem that held the job is repaired"]).await;
    assert_published(&pod, "etc/motd", "work of hours\n").await;
}

/// The work of a job that was killed while it published does not hang on a store that takes nothing when its
/// agent is started again.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_run_left_holds_the_job_until_it_can_be_withdrawn() {
    let pod = patient_pod("1h", "0").await;
    let (mut agent, _) = waiting(&pod).await;
    pod.s3.fail("PUT kernel", Fault::Hang, 1);
    pod.touch("complete");
    pod.s3.sees("PUT kernel").await;
    agent.process.signal(nix::sys::signal::Signal::SIGKILL);
    agent.process.wait(SOON).await;
    pod.s3.fail("DELETE", Fault::Status(403), ALWAYS);
    let address = format!("127.0.0.1:{}", free_port());
    let agent = pod.run_through(&[], &["--status-listen", &address]);
    held(&format!("http://{address}/status"), "cannot roll back the incomplete image").await;
    pod.s3.heal();
    let statuses = ["fetching_image", "packaging_artifacts", "success"];
    agent.ends(0, &statuses, &["the problem that held the job is repaired"]).await;
    assert_published(&pod, "etc/motd", "work of hours\n").await;
    let keys = pod.stand.keys("").await;
    let result = pod.result().unwrap();
    assert!(keys.iter().all(|key| key.starts_with(&result) || pod.is_of_base(key)), "{keys:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_comes_back_changes_the_image_or_gives_up() {
    let pod = patient_pod("1h", "0").await;
    let (agent, status) = waiting(&pod).await;
    pod.s3.fail("POST", Fault::Status(403), ALWAYS);
    pod.touch("complete");
    held(&status, "403").await;
    let port = agent.port;
    eventually("the user is back", SOON, async || {
        let output = pod.stand.key.try_exec(port, "echo more > /etc/motd && touch /tmp/complete");
        output.status.success().then_some(())
    })
    .await;
    // Packed anew, it is refused once more.
    eventually("it was packed twice", SOON, async || {
        (agent.process.log().matches("the image is packed").count() == 2).then_some(())
    })
    .await;
    held(&status, "403").await;
    pod.s3.heal();
    let statuses = [&SUCCEEDED[..2], &["packaging_artifacts"], &SUCCEEDED[2..]].concat();
    agent.ends(0, &statuses, &[]).await;
    assert_published(&pod, "etc/motd", "more\n").await;

    let pod = patient_pod("1h", "0").await;
    let (agent, status) = waiting(&pod).await;
    pod.s3.fail("POST", Fault::Status(403), ALWAYS);
    pod.touch("complete");
    held(&status, "403").await;
    pod.touch("failed");
    let statuses = ["fetching_image", "waiting_on_user", "packaging_artifacts", "error"];
    agent.ends(3, &statuses, &["the user gave up"]).await;
    pod.s3.heal();
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_kernel_is_shown_and_can_be_made() {
    let pod = patient_pod("0", "1h").await;
    let kernel = pod.root().join("boot/vmlinuz");
    let (agent, status) = waiting(&pod).await;
    fs::rename(&kernel, pod.root().join("kernel")).unwrap();
    let terminal = pod.stand.dir.path().join("terminal");
    let mut person = shell(&pod, agent.port, &terminal);
    shows(&terminal, "THE IMAGE CANNOT BE PACKAGED as it is: the kernel /boot/vmlinuz").await;

    assert!(pod.stand.key.try_exec(agent.port, "touch /tmp/complete").status.success());
    shows(&terminal, "Repair it and touch /tmp/complete again before").await;
    held(&status, "/boot/vmlinuz").await;
    assert!(!pod.root().join("tmp/complete").exists(), "it can be given once more");
    fs::rename(pod.root().join("kernel"), &kernel).unwrap();
    assert!(pod.stand.key.try_exec(agent.port, "touch /tmp/complete").status.success());
    agent.ends(0, &SUCCEEDED, &["the image cannot be packaged"]).await;
    assert_published(&pod, "etc/motd", "work of hours\n").await;
    person.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_waited_for_where_a_program_completed_the_image() {
    let mut pod = patient_pod("0", "1h").await;
    pod.vars.insert("IMS_JOB_GRACE_UNATTENDED", "1".into());
    let (agent, _) = waiting(&pod).await;
    fs::remove_file(pod.root().join("boot/vmlinuz")).unwrap();
    pod.touch("complete");
    let statuses = ["fetching_image", "waiting_on_user", "error"];
    agent.ends(1, &statuses, &["IMS_JOB_GRACE_UNATTENDED", "/boot/vmlinuz"]).await;
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_too_full_to_pack_lets_its_user_make_room() {
    let pod = patient_pod("0", "1h").await;
    let _volume = Volume::mount(&pod.parent, 48);
    let (agent, status) = waiting(&pod).await;
    let filler = pod.parent.join("filler");
    tree::run(
        Command::new("sh").args(["-c", "cat /dev/zero > \"$0\" 2>/dev/null; true"]).arg(&filler),
    );
    // All of it is taken: seen before the sessions end.
    pod.touch("complete");
    held(&status, "no space left on the volume").await;
    // Some is left, and too little: seen when it is packed, and the user is let in again.
    fs::File::options().write(true).open(&filler).unwrap().set_len(30 << 20).unwrap();
    pod.touch("complete");
    held(&status, "No space left on device").await;
    fs::remove_file(&filler).unwrap();
    pod.touch("complete");
    let statuses = [
        "fetching_image",
        "waiting_on_user",
        "packaging_artifacts",
        "waiting_on_user",
        "packaging_artifacts",
        "success",
    ];
    agent.ends(0, &statuses, &[]).await;
    assert_published(&pod, "etc/motd", "work of hours\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_could_not_publish_ends_before_anybody_is_let_in() {
    let mut pod = patient_pod("1h", "1h").await;
    for (name, wrong, why) in [
        ("S3_SECRET_KEY", "wrong", "SignatureDoesNotMatch"),
        ("S3_BUCKET", "no-such-bucket", "NoSuchBucket"),
    ] {
        let right = pod.vars.insert(name, wrong.into()).unwrap();
        let causes = ["this job would not be able to publish its image", why];
        pod.run().ends(1, &["fetching_image", "error"], &causes).await;
        pod.renew_job();
        pod.vars.insert(name, right);
    }
    pod.assert_no_image().await;
    // What a user has made before a restart is not lost for it.
    let (mut agent, _) = waiting(&pod).await;
    agent.process.signal(nix::sys::signal::Signal::SIGKILL);
    agent.process.wait(SOON).await;
    pod.s3.fail("PUT probe", Fault::Status(403), ALWAYS);
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    let terminal = pod.stand.dir.path().join("terminal");
    let mut person = shell(&pod, agent.port, &terminal);
    shows(&terminal, "publishing the image may fail").await;
    pod.touch("failed");
    agent.ends(3, &["fetching_image", "waiting_on_user", "error"], &["the user gave up"]).await;
    person.wait().unwrap();
}
