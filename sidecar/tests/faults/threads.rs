//! How the threads behind the requests are scheduled.

use super::scene::{CLIENTS, Scene};

/// The thread that writes the spool,
const WRITES: &str = "spool";
/// and the one that syncs what nobody waits for.
const SYNCS: &str = "spool-sync";

fn is_scheduled(scene: &Scene, thread: &str, policy: i32) {
    let what = format!("thread {thread} is scheduled by policy {policy}");
    scene.sidecar.until(&what, |sidecar| sidecar.scheduling(thread) == Some(policy));
}

#[test]
fn who_writes_the_spool_lets_requests_go_first_unless_answers_wait_for_it() {
    for (scene, writes) in
        [(Scene::start("threads-async"), libc::SCHED_BATCH), (Scene::strict("threads-strict"), libc::SCHED_OTHER)]
    {
        let load = scene.load();
        scene.more(&load, 4 * CLIENTS as u64);
        is_scheduled(&scene, WRITES, writes);
        is_scheduled(&scene, SYNCS, libc::SCHED_BATCH);
        let outcome = scene.end(load);
        outcome.check_counts();
    }
}
