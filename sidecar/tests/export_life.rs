//! Export over a sidecar's life: credentials, authorities, sinks that come and go, drains, and its own defects.

use std::collections::BTreeMap;
use std::time::Duration;
use testimony_core::policy::{DocumentSink, SinkCondition};
use testimony_sidecar::client::Secret;
use testimony_sidecar::config::SinkHeader;
use testimony_sidecar::export::{SinkFolders, Undelivered};

mod control_support;
use control_support::rig::{Options, Rig, taken};
use control_support::{Ca, DEADLINE, Reply, Server, batch, eventually, folder, names, sink};

#[tokio::test]
async fn wrong_credentials_park_the_queue_until_they_are_mended() {
    let server =
        Server::start(None, |_, one| Reply::status(if one.header("x-key") == "right" { 200 } else { 401 })).await;
    let dir = folder();
    let mut secured = sink(&server.url("http"));
    secured.credentials = true;
    secured.credentials_secret = Some("sink-login".to_owned());
    let folders = SinkFolders { headers: dir.clone(), ..SinkFolders::default() };
    let options = Options { folders, ..Options::new(vec![secured.clone()]) };
    let rig = Rig::with(options, &[batch(0, 2)]);
    eventually("parked without a folder", || rig.state().state == SinkCondition::Parked).await;
    let error = rig.state().error.expect("an error");
    assert!(error.contains("before the sink named Secret sink-login: restart the pod"), "{error}");

    std::fs::create_dir_all(dir.join("main")).expect("a folder");
    secured.timeout_ms += 1;
    rig.policy.send_replace(vec![secured.clone()].into());
    eventually("parked with an empty folder", || {
        rig.state().error.is_some_and(|error| error.contains("create Secret sink-login in namespace shop"))
    })
    .await;
    assert!(server.received().is_empty(), "nothing is sent without credentials");

    std::fs::write(dir.join("main/x-key"), "wrong-value\n").expect("a file");
    // A change of the sink ends the wait: the test needs no 30 seconds.
    secured.timeout_ms += 1;
    rig.policy.send_replace(vec![secured.clone()].into());
    server.until(|all| all.len() == 1).await;
    eventually("parked with 401", || rig.state().error.is_some_and(|error| error.contains("401"))).await;
    assert_eq!(rig.state().state, SinkCondition::Parked);
    let shown = format!("{:?} {}", rig.state(), rig.metrics.text());
    assert!(!shown.contains("wrong-value"), "{shown}");

    std::fs::write(dir.join("main/x-key"), "right\n").expect("a file");
    secured.timeout_ms += 1;
    rig.policy.send_replace(vec![secured].into());
    eventually("delivered", || rig.state().delivered == 2).await;
    assert_eq!(rig.state().lost, 0);
}

#[tokio::test]
async fn headers_of_the_configuration_are_sent_and_a_wrong_path_parks() {
    let server = Server::start(None, |_, _| Reply::status(404)).await;
    let value = Secret::header("Bearer t0ken").expect("a value");
    let header = SinkHeader { name: "authorization".to_owned(), value };
    let sink_headers = BTreeMap::from([("main".to_owned(), vec![header])]);
    let options = Options { sink_headers, ..Options::new(vec![sink(&server.url("http"))]) };
    let rig = Rig::with(options, &[batch(0, 2)]);
    let received = server.until(|all| all.len() == 1).await;
    assert_eq!(received[0].header("authorization"), "Bearer t0ken");
    eventually("parked", || rig.state().state == SinkCondition::Parked).await;
    assert!(rig.state().error.expect("an error").contains("404"));
    // A parked sink does not hold up the end: one more try, then what waits is undelivered.
    let left = rig.stop(Duration::from_secs(600)).await;
    assert_eq!(left, Undelivered { records: 2, undeclared: 0 });
    assert_eq!(server.received().len(), 2);
}

#[tokio::test]
async fn a_private_authority_is_trusted_by_its_bundle_only() {
    let (ca, other) = (Ca::new(), Ca::new());
    let server = Server::start(Some(&ca), |_, _| Reply::status(200)).await;
    let mut secured = sink(&server.url("https"));
    secured.server_name = Some("sink.test".to_owned());
    secured.ca_bundle = Some(other.pem.clone());
    let rig = Rig::start(vec![secured.clone()]);
    rig.push(batch(0, 1));
    eventually("TLS fails", || rig.state().error.is_some_and(|error| error.contains("TLS"))).await;
    assert_eq!(rig.state().state, SinkCondition::Failing);
    secured.ca_bundle = Some(format!("{}{}", other.pem, ca.pem));
    secured.server_name = Some("other.test".to_owned());
    rig.policy.send_replace(vec![secured.clone()].into());
    eventually("the name fails", || rig.state().error.is_some_and(|error| error.contains("other.test"))).await;
    secured.server_name = Some("sink.test".to_owned());
    rig.policy.send_replace(vec![secured].into());
    let received = server.until(|all| all.len() == 1).await;
    assert_eq!(received[0].records(), names(0..1));
}

#[tokio::test]
async fn sinks_come_and_go_with_the_policy_and_each_has_its_own_queue() {
    let first = Server::start(None, |_, _| Reply::status(200)).await;
    let second = Server::start(None, |_, _| Reply::status(200)).await;
    let one = sink(&first.url("http"));
    let other = DocumentSink { name: "other".to_owned(), ..sink(&second.url("http")) };
    let rig = Rig::start(vec![one.clone()]);
    rig.push(batch(0, 1));
    first.until(|all| all.len() == 1).await;
    rig.policy.send_replace(vec![one, other.clone()].into());
    eventually("two sinks", || rig.queue.sink_states().len() == 2).await;
    rig.push(batch(1, 1));
    first.until(|all| all.len() == 2).await;
    let received = second.until(|all| all.len() == 1).await;
    assert_eq!(received[0].records(), names(1..2));
    rig.policy.send_replace(vec![other].into());
    eventually("one sink", || rig.queue.sink_states().len() == 1).await;
    rig.push(batch(2, 1));
    second.until(|all| all.len() == 2).await;
    assert_eq!(first.received().len(), 2, "a removed sink gets nothing new");
    eventually("gauges go", || !rig.metrics.text().contains("testimony_export_queue_bytes{sink=\"main\"}")).await;
}

#[tokio::test]
async fn a_drain_sends_what_waits_and_counts_what_it_cannot() {
    let server = Server::start(None, |_, _| Reply::status(200)).await;
    let rig = Rig::with(Options::new(vec![sink(&server.url("http"))]), &[batch(0, 5)]);
    assert_eq!(rig.stop(DEADLINE).await, Undelivered::default());
    assert_eq!(taken(&server.received(), |_| true), names(0..5));

    let hanging = Server::start(None, |_, _| Reply::Hang).await;
    let rig = Rig::with(Options::new(vec![sink(&hanging.url("http"))]), &[batch(0, 5)]);
    hanging.until(|all| all.len() == 1).await;
    rig.push(batch(5, 2));
    let metrics = rig.metrics.clone();
    assert_eq!(rig.stop(Duration::from_millis(50)).await, Undelivered { records: 7, undeclared: 0 });
    assert!(metrics.text().contains("testimony_export_undelivered_records_total{sink=\"main\"} 7\n"));
}
