//! Asking a scripted operator for names.

use std::net::IpAddr;
use testimony_core::contract::NAMES_PATH;
use testimony_core::names::{Bearer, Named, NamesRequest, NamesResponse};
use testimony_sidecar::names::{Asker, Names};
use tokio::task::JoinSet;

mod control_support;
use control_support::{Ca, Received, Reply, Server, caller, eventually};

fn asked(received: &Received) -> NamesRequest {
    serde_json::from_slice(&received.body).expect("a NamesRequest")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[tokio::test]
async fn what_connections_show_is_asked_for_at_once_also_after_a_failure() {
    let ca = Ca::new();
    let pod = Bearer::Pod {
        namespace: "shop".to_owned(),
        name: "web-1".to_owned(),
        uid: "u".to_owned(),
        service_account: "web".to_owned(),
        workload: "Deployment/web".to_owned(),
    };
    let bearer = pod.clone();
    let server = Server::start(Some(&ca), move |number, received| match number {
        0 => Reply::body(200, b"{".to_vec()),
        _ if asked(received).addresses.is_empty() => Reply::status(204),
        _ => {
            let names = vec![Named { address: ip("10.0.0.1"), bearer: bearer.clone() }];
            let answer = NamesResponse { digest: "d".to_owned(), names };
            Reply::body(200, serde_json::to_vec(&answer).expect("JSON"))
        }
    })
    .await;
    let names = Names::default();
    let asker = Asker::new(names.clone(), caller(&ca, &server));
    let mut task = JoinSet::new();
    task.spawn(asker.run(std::future::pending()));
    server.until(|all| all.len() >= 2).await;
    let place = names.place(ip("10.0.0.1"));
    let received = server.until(|all| asked(&all[all.len() - 1]).addresses == [ip("10.0.0.1")]).await;
    assert!(received.iter().all(|one| one.path == NAMES_PATH && one.header("authorization") == "Bearer t1"));
    eventually("the name", || place.get() == Some(&pod)).await;
}
