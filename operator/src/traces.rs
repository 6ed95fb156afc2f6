//! The operator's own traces, as OTLP over HTTP/protobuf, where a flag asks for them.

use crate::trust::tls;
use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::pin::Pin;
use std::time::Duration;
use tokio::runtime::Handle;

/// Deadline of one export, in seconds.
const EXPORT_SECONDS_MAX: u64 = 10;

/// Largest answer of the endpoint.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Where traces go: the whole URL, `/v1/traces` added unless there is a path.
///
/// # Errors
/// Not a URL of `http` or `https`: for the flag's message.
pub fn endpoint(text: &str) -> Result<String, String> {
    let fix = "use a URL such as http://collector.observability:4318";
    let url: Uri = text.parse().map_err(|e| format!("{e}; {fix}"))?;
    if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none_or(str::is_empty) {
        return Err(fix.to_owned());
    }
    match url.path() {
        "" | "/" => Ok(format!("{}/v1/traces", text.trim_end_matches('/'))),
        _ => Ok(text.to_owned()),
    }
}

/// A provider that exports to the endpoint; its threads use this runtime. Shut it down before the process ends.
///
/// # Errors
/// The endpoint is empty, or the exporter cannot be built.
pub fn provider(endpoint: &str, replica: &str, runtime: Handle) -> anyhow::Result<SdkTracerProvider> {
    if endpoint.is_empty() {
        bail!("--otlp-traces-endpoint is empty");
    }
    let client = RuntimeClient { client: client()?, runtime };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(endpoint)
        .with_timeout(Duration::from_secs(EXPORT_SECONDS_MAX))
        .build()
        .context("--otlp-traces-endpoint")?;
    let resource = Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", "testimony-operator"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", replica.to_owned()),
        ])
        .build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

type Connector = HttpsConnector<HttpConnector>;

fn client() -> anyhow::Result<Client<Connector, Full<Bytes>>> {
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls(None).context("--otlp-traces-endpoint")?);
    Ok(Client::builder(TokioExecutor::new()).build(connector.https_or_http().enable_http1().build()))
}

/// The SDK exports on a thread of its own; hyper needs the runtime.
#[derive(Debug)]
struct RuntimeClient {
    client: Client<Connector, Full<Bytes>>,
    runtime: Handle,
}

impl HttpClient for RuntimeClient {
    fn send_bytes<'client, 'future>(
        &'client self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'future>>
    where
        'client: 'future,
        Self: 'future,
    {
        let client = self.client.clone();
        let exchange = async move {
            let answer = client.request(request.map(Full::new)).await?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
            Ok::<_, HttpError>(Response::from_parts(head, body))
        };
        let deadline = Duration::from_secs(EXPORT_SECONDS_MAX);
        let task = self.runtime.spawn(async move { tokio::time::timeout(deadline, exchange).await });
        Box::pin(async move { task.await?? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signals_path_is_added_where_there_is_none() {
        assert_eq!(endpoint("http://c:4318"), Ok("http://c:4318/v1/traces".to_owned()));
        assert_eq!(endpoint("http://c:4318/"), Ok("http://c:4318/v1/traces".to_owned()));
        assert_eq!(endpoint("https://c/otlp/traces"), Ok("https://c/otlp/traces".to_owned()));
        for wrong in ["", "c:4318", "ftp://c", "/v1/traces"] {
            assert!(endpoint(wrong).is_err(), "{wrong}");
        }
    }
}
