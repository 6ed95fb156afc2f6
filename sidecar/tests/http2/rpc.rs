//! Calls of gRPC as records.

use crate::rig::*;
use crate::support::Record;
use bytes::Bytes;
use h2::Reason;

const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc"), ("te", "trailers")];

#[test]
fn a_unary_call_and_a_stream_of_calls_are_records_with_counts_and_status() {
    play(|| async {
        let mut rig = Rig::usual().await;
        let (response, mut up, (request, mut respond)) = rig.exchange(post("/shop.v1.Cart/Add", GRPC)).await;
        up.send_data(message(b"apple"), true).expect("data");
        assert_eq!(read(&mut request.into_body()).await.expect("the body").0, message(b"apple"));
        let mut down = respond.send_response(answer(200, GRPC), false).expect("head");
        down.send_data(message(b"ok"), false).expect("data");
        down.send_trailers(trailers(&[("grpc-status", "0")])).expect("trailers");
        let mut body = within(response).await.expect("the answer").into_body();
        assert_eq!(read(&mut body).await.expect("the body").1, Some(trailers(&[("grpc-status", "0")])));

        // Messages over several frames, and several in one.
        let (response, mut up, (request, mut respond)) = rig.exchange(post("/shop.v1.Cart/Watch", GRPC)).await;
        let many = [message(b"1"), message(b""), message(&[9; 100])].concat();
        for piece in many.chunks(7) {
            up.send_data(Bytes::copy_from_slice(piece), false).expect("data");
        }
        up.send_data(Bytes::new(), true).expect("data");
        assert_eq!(read(&mut request.into_body()).await.expect("the body").0, many);
        let mut down = respond.send_response(answer(200, GRPC), false).expect("head");
        for _ in 0..5 {
            down.send_data(Bytes::from(many.clone()), false).expect("data");
        }
        down.send_trailers(trailers(&[("grpc-status", "10"), ("grpc-message", "stale")])).expect("trailers");
        let mut body = within(response).await.expect("the answer").into_body();
        read(&mut body).await.expect("the body");

        let records = rig.records(2).await;
        let of = |at: usize, keys: [&str; 6]| keys.map(|key| records[at][key].clone());
        let keys = ["rpc_service", "rpc_method", "grpc_status", "req_msgs", "res_msgs", "outcome"];
        assert_eq!(of(0, keys), ["shop.v1.Cart", "Add", "0", "1", "1", "success"]);
        assert_eq!(of(1, keys), ["shop.v1.Cart", "Watch", "10", "3", "15", "failure"]);
    });
}

#[test]
fn trailers_only_and_a_call_that_is_given_up() {
    play(|| async {
        let mut rig = Rig::usual().await;
        let (response, mut up, (_request, mut respond)) = rig.exchange(post("/shop.v1.Cart/No", GRPC)).await;
        up.send_data(message(b""), true).expect("data");
        let only = [("content-type", "application/grpc"), ("grpc-status", "12")];
        let _ = respond.send_response(answer(200, &only), true).expect("head");
        let response = within(response).await.expect("the answer");
        assert!(response.body().is_end_stream(), "a head that is all of the answer");
        assert_eq!(response.headers()["grpc-status"], "12");
        let (_response, mut up, _taken) = rig.exchange(post("/shop.v1.Cart/Slow", GRPC)).await;
        up.send_reset(Reason::CANCEL);
        let records = rig.records(2).await;
        assert_eq!((records[0]["grpc_status"].as_str(), records[0]["outcome"].as_str()), ("12", "failure"));
        assert_eq!((records[1]["h2_error"].as_str(), records[1]["outcome"].as_str()), ("cancel", "failure"));
        assert!(!records[1].contains_key("grpc_status"));
    });
}

#[test]
fn a_call_that_stays_open_shows_while_it_is() {
    play(|| async {
        let mut rig = Rig::usual().await;
        let (response, mut up, (_request, mut respond)) = rig.exchange(post("/shop.v1.Cart/Watch", GRPC)).await;
        up.send_data(message(b"what"), true).expect("data");
        let mut down = respond.send_response(answer(200, GRPC), false).expect("head");
        down.send_data(message(b"1"), false).expect("data");
        let mut body = within(response).await.expect("the answer").into_body();
        assert_eq!(within(body.data()).await.expect("data").expect("data"), message(b"1"));
        let shown = |all: &[Record]| all.iter().any(|record| record["typ"] == "stage");
        let records = rig.look(move |sink| sink.wait_until("stage", shown)).await;
        assert_eq!((records[0]["stage"].as_str(), records[0]["res_msgs"].as_str()), ("opened", "1"));
        down.send_trailers(trailers(&[("grpc-status", "0")])).expect("trailers");
        read(&mut body).await.expect("the body");
        let over = rig.records(1).await;
        assert_eq!((&over[0]["xid"], over[0]["outcome"].as_str()), (&records[0]["xid"], "success"));
    });
}
