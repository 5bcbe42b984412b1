//! What sessions reach of the host that they share a network with.

use std::io::{Read, Write};
use std::net::TcpListener;

use crate::pod::Pod;
use crate::support::stand::{Objects, Stand};
use crate::support::tree;

const SUCCESS: [&str; 4] = ["fetching_image", "waiting_on_user", "packaging_artifacts", "success"];

/// A service of the host that speaks HTTP to whoever connects; ends with the test.
fn service(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nreached\n");
        }
    });
    port
}

/// In a session: what comes of a request to each of these, a line each.
fn requests(targets: &[String]) -> String {
    let get = |target: &String| {
        format!("busybox wget -q -O - http://{target}/ 2>/dev/null || echo refused; ")
    };
    targets.iter().map(get).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_standalone_reach_neither_it_nor_other_services_of_the_host() {
    let stand = Stand::start(Objects::Embedded).await;
    let root = stand.dir.path().join("root");
    tree::make_small_root(&root);
    let image = stand.dir.path().join("base.sqsh");
    tree::squash(&root, &image);
    let image = stand.import("base", &image).await;
    let port = service("127.0.0.1");
    let port_of = |url: &str| url.parse::<reqwest::Url>().unwrap().port().unwrap();
    let (ims, s3) = (port_of(&stand.ims.base), port_of(stand.s3.endpoint.as_str()));
    for jail in [true, false] {
        let job = stand.customize(&image, jail).await;
        job.reaches("waiting_on_user").await;
        assert!(job.log().contains("filtered network"), "{}", job.log());
        let targets = [
            format!("127.0.0.1:{port}"),
            format!("0.0.0.0:{port}"),
            format!("127.0.0.1:{ims}/v3/images"),
            format!("127.0.0.1:{s3}"),
        ];
        let said = stand.key.exec(job.port, &requests(&targets));
        assert_eq!(said, "refused\n".repeat(targets.len()), "jail: {jail}");
        for target in [port, ims, s3, job.port] {
            let mut ssh = stand.key.ssh(job.port);
            ssh.args(["-W", &format!("127.0.0.1:{target}")]).stdin(std::process::Stdio::null());
            let done = ssh.output().unwrap();
            assert!(!done.status.success() && done.stdout.is_empty(), "-W: {done:?}");
        }
        let done = if jail { "/tmp/complete" } else { "/mnt/image/complete" };
        stand.key.exec(job.port, &format!("touch {done}"));
        job.reaches("success").await;
        assert!(!job.log().contains("control group"), "{}", job.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customization_script_is_kept_from_the_hosts_services_like_sessions() {
    let port = service("127.0.0.1");
    for (network, said) in [("filtered", "script: refused"), ("host", "script: reached")] {
        let mut pod = Pod::start().await;
        let script = pod.stand.dir.path().join("script");
        let requests = requests(&[format!("127.0.0.1:{port}")]);
        let text = format!("#!/bin/sh\n{requests}\ntouch '{}/complete'\n", pod.parent.display());
        tree::write(&script, text.as_bytes(), 0o755);
        pod.vars.insert("CUSTOMIZATION_SCRIPT", script.display().to_string());
        pod.vars.insert("IMS_SESSION_NETWORK", network.into());
        pod.run().ends(0, &SUCCESS, &[said]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_cannot_be_had_ends_the_job_before_anything_is_fetched() {
    let pod = Pod::start().await;
    let without = ["setpriv", "--bounding-set", "-sys_admin,-bpf"];
    let agent = pod.run_through(&without, &["--session-network", "filtered"]);
    let causes = ["cannot keep sessions from the services of this host", "--session-network host"];
    agent.ends(1, &["error"], &causes).await;
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_sockets_are_had_where_they_are_asked_for() {
    for (options, net_raw) in [(&[][..], false), (&["--session-capability", "net_raw"], true)] {
        let pod = Pod::start().await;
        let mut agent = pod.run_through(&[], options);
        agent.reaches("waiting_on_user").await;
        let said = pod.stand.key.exec(agent.port, "busybox grep CapEff /proc/self/status");
        let effective = said.lines().last().unwrap().split_whitespace().last().unwrap();
        let effective = u64::from_str_radix(effective, 16).unwrap();
        assert_eq!(effective & 1 << 13 != 0, net_raw, "{said}");
        pod.stand.key.exec(agent.port, "touch /tmp/complete");
        agent.ends(0, &SUCCESS, &[]).await;
    }
}
