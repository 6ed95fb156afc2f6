//! An API server for tests that reads objects from a table of paths.

use crate::cluster::Cluster;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Every path that was asked for.
pub(crate) type Asked = Arc<Mutex<Vec<String>>>;

/// A cluster with these objects, by path; a path that is not there answers 404, or 403 where the value is null. Everything
/// that is posted is allowed, as an access review is.
pub(crate) fn cluster(objects: BTreeMap<&'static str, Value>) -> (Cluster, Asked) {
    let asked = Asked::default();
    let (objects, log) = (Arc::new(objects), asked.clone());
    let service = tower::service_fn(move |request: Request<Body>| {
        let (objects, log) = (objects.clone(), log.clone());
        async move {
            let (head, body) = request.into_parts();
            let path = head.uri.path().to_owned();
            let (status, answer) = if head.method == Method::POST {
                let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                let mut review: Value = serde_json::from_slice(&body).unwrap_or_default();
                review["status"] = json!({"allowed": true});
                (StatusCode::CREATED, review)
            } else {
                match objects.get(path.as_str()) {
                    Some(Value::Null) => failure(StatusCode::FORBIDDEN, "Forbidden"),
                    Some(object) => (StatusCode::OK, object.clone()),
                    None => failure(StatusCode::NOT_FOUND, "NotFound"),
                }
            };
            log.lock().expect("no panic").push(path);
            let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
            *response.status_mut() = status;
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let client = Client::new(service, "shop");
    (Cluster { client, namespace: "shop".to_owned() }, asked)
}

/// A list of objects, as the API server gives it.
pub(crate) fn list(items: &[Value]) -> Value {
    json!({"metadata": {}, "items": items})
}

fn failure(code: StatusCode, reason: &str) -> (StatusCode, Value) {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason,
                      "message": format!("it is {reason}"), "code": code.as_u16()});
    (code, body)
}
