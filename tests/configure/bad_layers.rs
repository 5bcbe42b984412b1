//! Layers that do harm: each ends in a clear error on a clean machine.

use serde_json::{Value, json};

use super::Bench;
use super::repository::Repository;
use super::support::stand::Objects;

/// A `shutdown` as an image of a live system has it: it says yes, and nobody is there to do it.
const SHUTDOWN: &str = r#"- name: Install shutdown
  copy:
    dest: /usr/local/sbin/shutdown
    mode: "0755"
    content: |
      #!/usr/bin/python3
      import ctypes, sys
      libc = ctypes.CDLL(None, use_errno=True)
      if libc.syscall(169, 0xfee1dead, 672274793, 0x1234567, 0) != 0:
          sys.exit("reboot: error %d" % ctypes.get_errno())"#;

/// What a layer does, and what its error says.
fn harm() -> Vec<(String, &'static str)> {
    let after_shutdown = |tasks: &str| format!("{SHUTDOWN}\n{tasks}");
    vec![
        (
            after_shutdown("- name: Reboot by the module\n  ansible.builtin.reboot:"),
            "Reboot by the module",
        ),
        (after_shutdown("- name: Reboot now\n  command: shutdown -r now"), "Reboot now"),
        ("- name: Reboot\n  command: reboot -f".into(), "Reboot"),
        (
            "- name: Remove python\n  raw: rm -f /usr/bin/python3*\n- name: After python\n  ping:"
                .into(),
            "After python",
        ),
        ("- name: Kill all\n  raw: kill -9 -1\n- name: Fail\n  raw: \"false\"".into(), "failed"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn harmful_layers_end_in_an_error_on_a_clean_machine() {
    let bench = Bench::start(Objects::Embedded).await;
    let repository = Repository::make(&bench.path("repository"));
    for (tasks, expected) in harm() {
        let commit = repository.commit("site.yml", &tasks);
        bench.configure(&layer(&repository.url(), &commit), &[]).await.failed_with(expected);
    }
    let images = bench.stand.ims.get("v3/images").await;
    assert_eq!(images.as_array().unwrap().len(), 1, "nothing was published: {images}");
}

const LEFTOVERS: &str = r#"- name: Leave a process
  shell: nohup sleep 4711 >/dev/null 2>&1 &
- name: Leave a daemon
  command:
    argv:
      - python3
      - -c
      - |
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(4712)
            os._exit(0)
- name: Leave a mount
  shell: "mkdir -p /srv/mounted && mount -t tmpfs tmpfs /srv/mounted && touch /srv/mounted/x""#;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_layer_leaves_running_or_mounted_is_ended_and_named() {
    let bench = Bench::start(Objects::Embedded).await;
    let repository = Repository::make(&bench.path("repository"));
    let commit = repository.commit("site.yml", LEFTOVERS);
    let mut layers = layer(&repository.url(), &commit);
    layers[0]["special_parameters"] = json!({"ims_require_dkms": true});
    let ran = bench.configure(&layers, &[]).await.succeeded();
    for left in ["sleep", "python3", "/srv/mounted"] {
        let told = ran.log.lines().any(|line| line.contains("left") && line.contains(left));
        assert!(told, "{left}: {}", ran.log);
    }
    let mounted = bench.unpacked(&ran.result_id()).await.join("srv/mounted");
    assert_eq!(std::fs::read_dir(mounted).unwrap().count(), 0, "what was mounted is not packed");
}

fn layer(url: &str, commit: &str) -> Value {
    json!([{"name": "bad", "clone_url": url, "commit": commit}])
}
