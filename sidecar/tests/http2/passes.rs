//! What goes through.

use crate::rig::*;
use bytes::Bytes;
use h2::ext::Protocol;
use http::{HeaderMap, Method};
use std::future::poll_fn;
use std::pin::Pin;

#[test]
fn px_1_heads_bodies_trailers_and_interim_answers_pass() {
    play(|| async {
        let mut rig = Rig::usual().await;
        let request = post(
            "/buy?card=1",
            &[("x-a", "1"), ("x-a", "2"), ("cookie", "a=b"), ("cookie", "c=d"), ("te", "trailers")],
        );
        let sent = request.headers().clone();
        let (mut response, mut up) = rig.send(request, false).await;
        up.send_data(Bytes::from_static(b"abc"), false).expect("data");
        up.send_data(Bytes::from_static(b"def"), false).expect("data");
        up.send_trailers(trailers(&[("x-t", "1")])).expect("trailers");

        let (request, mut respond) = rig.take().await;
        assert_eq!(
            (request.method(), request.uri().to_string()),
            (&Method::POST, "http://shop.example/buy?card=1".into())
        );
        assert!(request.headers().contains_key("traceparent") && request.headers().contains_key("x-request-id"));
        assert_eq!(without_added(request.headers().clone()), sent);
        let (body, at_end) = read(&mut request.into_body()).await.expect("the body");
        assert_eq!((body.as_slice(), at_end), (b"abcdef".as_slice(), Some(trailers(&[("x-t", "1")]))));

        respond.send_informational(answer(103, &[("link", "</a>")])).expect("103");
        respond.send_informational(answer(100, &[])).expect("100");
        let mut down = respond.send_response(answer(201, &[("x-b", "1"), ("x-b", "2")]), false).expect("head");
        down.send_data(Bytes::from_static(b"yes"), false).expect("data");
        down.send_trailers(trailers(&[("x-u", "2")])).expect("trailers");

        let mut interim = Vec::new();
        while let Some(head) = within(poll_fn(|cx| Pin::new(&mut response).poll_informational(cx))).await {
            let head = head.expect("an interim answer");
            interim.push((head.status().as_u16(), head.headers().clone()));
        }
        let link: HeaderMap = trailers(&[("link", "</a>")]);
        assert_eq!(interim, [(103, link), (100, HeaderMap::new())]);
        let response = within(response).await.expect("the answer");
        assert_eq!(
            (response.status().as_u16(), response.headers()),
            (201, answer(201, &[("x-b", "1"), ("x-b", "2")]).headers())
        );
        let (body, at_end) = read(&mut response.into_body()).await.expect("the body");
        assert_eq!((body.as_slice(), at_end), (b"yes".as_slice(), Some(trailers(&[("x-u", "2")]))));
        let record = &rig.records(1).await[0];
        let of = |key: &str| record[key].as_str();
        assert_eq!((of("proto"), of("method"), of("path"), of("status")), ("http/2", "POST", "/buy", "201"));
        assert_eq!(
            (of("req_bytes"), of("res_bytes"), of("outcome"), of("authority")),
            ("6", "3", "success", "shop.example")
        );
    });
}

#[test]
fn px_1_the_end_of_a_message_comes_as_it_was_sent() {
    play(|| async {
        let mut rig = Rig::usual().await;
        // In the head.
        let (response, _up) = rig.send(get("/a"), true).await;
        let (request, mut respond) = rig.take().await;
        assert!(request.body().is_end_stream(), "a request that is its head alone");
        let _ = respond.send_response(answer(204, &[]), true).expect("head");
        assert!(within(response).await.expect("the answer").body().is_end_stream());
        // In an empty frame after it.
        let (response, mut up, (request, mut respond)) = rig.exchange(post("/b", &[])).await;
        assert!(!request.body().is_end_stream());
        up.send_data(Bytes::new(), true).expect("data");
        assert_eq!(read(&mut request.into_body()).await.expect("the body"), (Vec::new(), None));
        let mut down = respond.send_response(answer(200, &[]), false).expect("head");
        let mut body = within(response).await.expect("the answer").into_body();
        assert!(!body.is_end_stream());
        down.send_data(Bytes::new(), true).expect("data");
        assert_eq!(read(&mut body).await.expect("the body"), (Vec::new(), None));
        rig.records(2).await;
    });
}

#[test]
fn px_1_a_side_may_end_long_before_the_other() {
    play(|| async {
        let mut rig = Rig::usual().await;
        // The answer is whole while the request goes on.
        let (response, mut up, (request, mut respond)) = rig.exchange(post("/early", &[])).await;
        let mut down = respond.send_response(answer(200, &[]), false).expect("head");
        down.send_data(Bytes::from_static(b"done"), true).expect("data");
        let mut body = within(response).await.expect("the answer").into_body();
        assert_eq!(read(&mut body).await.expect("the body").0, b"done");
        up.send_data(Bytes::from_static(b"late"), true).expect("data");
        assert_eq!(read(&mut request.into_body()).await.expect("the body").0, b"late");
        let record = &rig.records(1).await[0];
        assert_eq!((record["outcome"].as_str(), record["req_bytes"].as_str()), ("success", "4"));
    });
}

#[test]
fn px_1_extended_connect_passes_where_the_server_allows_it() {
    play(|| async {
        let mut builder = h2::server::Builder::new();
        builder.enable_connect_protocol();
        let mut rig = Rig::start(builder, "").await;
        // The server's SETTINGS are there once a request has come back.
        let (response, _up, (_, mut respond)) = rig.ask(get("/")).await;
        let _ = respond.send_response(answer(200, &[]), true).expect("head");
        within(response).await.expect("the answer");
        assert!(rig.sender.is_extended_connect_protocol_enabled());
        let mut request = get("/chat?token=1");
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        let (response, mut up, (request, mut respond)) = rig.exchange(request).await;
        assert_eq!(request.extensions().get::<Protocol>().map(Protocol::as_str), Some("websocket"));
        assert_eq!(request.uri().path(), "/chat");
        let mut down = respond.send_response(answer(200, &[]), false).expect("head");
        let mut body = within(response).await.expect("the answer").into_body();
        up.send_data(Bytes::from_static(b"ping"), true).expect("data");
        assert_eq!(read(&mut request.into_body()).await.expect("the body").0, b"ping");
        down.send_data(Bytes::from_static(b"pong!"), true).expect("data");
        assert_eq!(read(&mut body).await.expect("the body").0, b"pong!");
        let record = &rig
            .look(|sink| {
                sink.wait_until("tunnel", |all| {
                    all.iter().any(|r| r.contains_key("tunnel_req_bytes") && r["typ"] == "exchange")
                })
            })
            .await;
        let record = record.iter().find(|r| r["path"] == "/chat" && r["typ"] == "exchange").expect("a record");
        assert_eq!((record["cause"].as_str(), record["tunnel_req_bytes"].as_str()), ("upgraded", "4"));
        assert_eq!((record["tunnel_res_bytes"].as_str(), record["outcome"].as_str()), ("5", "success"));
    });
}

#[test]
fn px_1_the_servers_settings_are_the_clients() {
    play(|| async {
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(3);
        let mut rig = Rig::start(builder, "").await;
        let (response, up) = rig.send(get("/"), true).await;
        let (_, mut respond) = rig.take().await;
        let _ = respond.send_response(answer(200, &[]), true).expect("head");
        within(response).await.expect("the answer");
        drop((up, respond));
        assert_eq!(rig.sender.current_max_send_streams(), 3);
        assert!(!rig.sender.is_extended_connect_protocol_enabled());
        drop(rig.sender);
        within(rig.served).await.expect("joined").expect("the origin's connection ends in order");
    });
}

#[test]
fn ev_1_a_hundred_streams_at_once_are_a_hundred_records() {
    play(|| async {
        let mut rig = Rig::usual().await;
        let mut open = Vec::new();
        for number in 0..100 {
            let (response, mut up) = rig.send(post(&format!("/{number}"), &[]), false).await;
            up.send_data(Bytes::from(vec![b'x'; number]), true).expect("data");
            open.push(response);
        }
        // All of them are open before the first is answered, and they are answered from the last to the first.
        let mut taken = Vec::new();
        for _ in 0..100 {
            taken.push(rig.take().await);
        }
        for (request, mut respond) in taken.into_iter().rev() {
            let path = request.uri().path().to_owned();
            let (body, _) = read(&mut request.into_body()).await.expect("the body");
            assert_eq!(path, format!("/{}", body.len()));
            let mut down = respond.send_response(answer(200, &[]), false).expect("head");
            down.send_data(Bytes::from(path), true).expect("data");
        }
        for (number, response) in open.into_iter().enumerate() {
            let mut body = within(response).await.expect("the answer").into_body();
            assert_eq!(read(&mut body).await.expect("the body").0, format!("/{number}").into_bytes());
        }
        for (number, record) in rig.records(100).await.iter().enumerate() {
            let bytes = record["path"].trim_start_matches('/');
            assert_eq!((record["conn_seq"].clone(), record["req_bytes"].as_str()), (number.to_string(), bytes));
        }
    });
}
