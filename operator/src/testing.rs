//! A small API server for tests: objects in memory, with resource versions and conflicts.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The server; cloning shares it.
#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, Value>,
    version: u64,
    failing: bool,
    /// Requests that are never answered, and after these requests that are answered with 503.
    hanging: usize,
    busy: usize,
    /// How long an answer takes; what was asked has its effect before.
    delay: Duration,
    /// Writes whose answers are lost, though they take effect.
    lost: usize,
    /// Pages of lists that were asked for, by their limits.
    pages: Vec<usize>,
    /// After so many pages the tokens that were given expire.
    expires: Option<usize>,
}

impl FakeApi {
    /// A client of this server.
    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                let query = head.uri.query().unwrap_or_default();
                if api.hangs() {
                    std::future::pending::<()>().await;
                }
                let (status, answer) = api.answer(&head.method, (head.uri.path(), query), &body);
                let delay = api.lock().delay;
                tokio::time::sleep(delay).await;
                let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
                *response.status_mut() = status;
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        Client::new(service, "default")
    }

    /// An object by its path.
    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.lock().objects.get(path).cloned()
    }

    /// Puts an object there, as another client would.
    pub(crate) fn put(&self, path: &str, object: Value) {
        let mut inner = self.lock();
        inner.store(path.to_owned(), object);
    }

    /// Deletes an object, as another client would.
    pub(crate) fn delete(&self, path: &str) {
        self.lock().objects.remove(path);
    }

    /// Answers every request with 500 from now on, or no more.
    pub(crate) fn fail(&self, failing: bool) {
        self.lock().failing = failing;
    }

    /// The next requests are never answered.
    pub(crate) fn hang(&self, requests: usize) {
        self.lock().hanging = requests;
    }

    /// The next requests are answered with 503.
    pub(crate) fn busy(&self, requests: usize) {
        self.lock().busy = requests;
    }

    /// Answers take so long from now on.
    pub(crate) fn slow(&self, delay: Duration) {
        self.lock().delay = delay;
    }

    /// Whether this request is never answered.
    fn hangs(&self) -> bool {
        let mut inner = self.lock();
        let hangs = inner.hanging > 0;
        inner.hanging = inner.hanging.saturating_sub(1);
        hangs
    }

    /// The next writes take effect, and their answers are lost.
    pub(crate) fn lose(&self, writes: usize) {
        self.lock().lost = writes;
    }

    /// Once this many pages of lists were given, what they are continued with has expired.
    pub(crate) fn expire(&self, pages: usize) {
        let mut inner = self.lock();
        inner.expires = Some(pages);
        inner.pages.clear();
    }

    /// Limits of the pages that were asked for since then.
    pub(crate) fn pages(&self) -> Vec<usize> {
        self.lock().pages.clone()
    }

    /// Paths of the objects that begin so.
    pub(crate) fn paths(&self, prefix: &str) -> Vec<String> {
        self.lock().objects.keys().filter(|path| path.starts_with(prefix)).cloned().collect()
    }

    fn answer(&self, method: &Method, (path, query): (&str, &str), body: &[u8]) -> (StatusCode, Value) {
        let mut inner = self.lock();
        if inner.failing {
            return status(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
        }
        if inner.busy > 0 {
            inner.busy -= 1;
            return status(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable");
        }
        let object: Value = serde_json::from_slice(body).unwrap_or_default();
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let lost = *method == Method::POST && inner.lost > 0;
        match *method {
            // The only kind that is listed.
            Method::GET if path.ends_with("/configmaps") => inner.page(path, query),
            Method::GET => match inner.objects.get(path) {
                Some(object) => (StatusCode::OK, object.clone()),
                None if is_list(path) => (StatusCode::OK, inner.list(path)),
                None => status(StatusCode::NOT_FOUND, "NotFound"),
            },
            // A merge patch, of the object or of its status.
            Method::PATCH => {
                let path = path.trim_end_matches("/status");
                match inner.objects.get(path).cloned() {
                    Some(mut known) => {
                        json_patch::merge(&mut known, &object);
                        (StatusCode::OK, inner.store(path.to_owned(), known))
                    }
                    None => status(StatusCode::NOT_FOUND, "NotFound"),
                }
            }
            Method::POST => {
                let path = format!("{path}/{name}");
                if inner.objects.contains_key(&path) {
                    return status(StatusCode::CONFLICT, "AlreadyExists");
                }
                let stored = inner.store(path, object);
                if lost {
                    inner.lost -= 1;
                    return status(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
                }
                (StatusCode::CREATED, stored)
            }
            Method::DELETE => match inner.objects.remove(path) {
                Some(object) => (StatusCode::OK, object),
                None => status(StatusCode::NOT_FOUND, "NotFound"),
            },
            Method::PUT => match inner.objects.get(path) {
                None => status(StatusCode::NOT_FOUND, "NotFound"),
                Some(known) if known["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] => {
                    status(StatusCode::CONFLICT, "Conflict")
                }
                Some(_) => (StatusCode::OK, inner.store(path.to_owned(), object)),
            },
            _ => status(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a path names the objects of a group in a namespace.
fn is_list(path: &str) -> bool {
    path.starts_with("/apis/") && path.split('/').count() == 7
}

impl Inner {
    fn list(&self, path: &str) -> Value {
        let folder = format!("{path}/");
        let items: Vec<&Value> =
            self.objects.iter().filter(|(path, _)| path.starts_with(&folder)).map(|(_, object)| object).collect();
        json!({"metadata": {}, "items": items})
    }

    /// A page of the ConfigMaps of a ledger, as `limit` and `continue` of the query say. Tokens need no encoding.
    fn page(&mut self, path: &str, query: &str) -> (StatusCode, Value) {
        let value = |key: &str| query.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == key);
        let limit = value("limit").and_then(|(_, limit)| limit.parse().ok()).unwrap_or(usize::MAX);
        let (given, after) = match value("continue").and_then(|(_, token)| token.split_once('.')) {
            Some((given, name)) => (given, name),
            None => ("fresh", ""),
        };
        if self.expires.is_some_and(|pages| self.pages.len() >= pages) && given == "fresh" && !after.is_empty() {
            let (code, mut text) = status(StatusCode::GONE, "Expired");
            text["metadata"] = json!({"continue": format!("inconsistent.{after}")});
            return (code, text);
        }
        self.pages.push(limit);
        let (under, begin) = (format!("{path}/"), format!("{path}/{after}"));
        let labelled = |object: &Value| object["metadata"]["labels"]["testimony.dev/ledger"] == "true";
        let all = self.objects.range(begin.clone()..).take_while(|(path, _)| path.starts_with(&under));
        let mut rest = all.filter(|(path, object)| **path > begin && labelled(object));
        let page: Vec<(&String, &Value)> = rest.by_ref().take(limit).collect();
        let last = page.last().and_then(|(path, _)| path.strip_prefix(&under)).filter(|_| rest.next().is_some());
        let metadata = last.map_or(json!({}), |name| json!({"continue": format!("{given}.{name}")}));
        let items: Vec<&Value> = page.iter().map(|(_, object)| *object).collect();
        (StatusCode::OK, json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": metadata, "items": items}))
    }

    fn store(&mut self, path: String, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path, object.clone());
        object
    }
}

fn status(code: StatusCode, reason: &str) -> (StatusCode, Value) {
    let text = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason,
                      "code": code.as_u16()});
    (code, text)
}
