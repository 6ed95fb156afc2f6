//! Calls to the operator: the projected token, the authority in use, one connection for each caller.

use crate::client::{Answer, Client, Endpoint, Secret, Trust, Version, error_line, tls_config};
use crate::config::Operator;
use arc_swap::ArcSwap;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use std::sync::Arc;
use std::time::Duration;

/// Largest token file, in bytes.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// One caller. Callers that are made by [`Caller::another`] follow the same authority.
pub struct Caller {
    operator: Arc<Operator>,
    endpoint: Endpoint,
    /// The authority in use, as a PEM bundle.
    ca_pem: Arc<ArcSwap<String>>,
    /// The connection, and the authority that it was made under.
    client: Option<(Client, Arc<String>)>,
}

/// A call that brought no answer of use. Holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no token.
    #[error("the token file {file} cannot be used: {reason}")]
    Token {
        /// Its path.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The token is not accepted.
    #[error("the operator refuses the token: {0}")]
    Unauthorized(StatusCode),
    /// Any other status that is neither 200 nor 204.
    #[error("the operator answered {0}")]
    Status(StatusCode),
    /// The answer cannot be read.
    #[error("the operator's answer cannot be read: {0}")]
    Body(String),
    /// Nobody answers: there is no connection, or it broke.
    #[error("{0}")]
    Absent(String),
    /// There is no answer for another reason.
    #[error("{0}")]
    Client(String),
}

impl Caller {
    /// A caller that is not connected yet. `ca_pem`: from the last good answer, where it is newer than the environment's.
    ///
    /// # Errors
    /// The operator's URL is none.
    pub fn new(operator: Operator, ca_pem: Option<String>) -> Result<Self, crate::client::EndpointError> {
        let endpoint = Endpoint::parse(&operator.url)?;
        let ca_pem = Arc::new(ArcSwap::from_pointee(ca_pem.unwrap_or_else(|| operator.ca_pem.clone())));
        Ok(Self { operator: Arc::new(operator), endpoint, ca_pem, client: None })
    }

    /// Another caller, with a connection of its own.
    pub fn another(&self) -> Self {
        let (operator, endpoint, ca_pem) = (self.operator.clone(), self.endpoint.clone(), self.ca_pem.clone());
        Self { operator, endpoint, ca_pem, client: None }
    }

    /// The injection id, as the environment says it.
    pub fn injection_id(&self) -> &str {
        &self.operator.injection_id
    }

    /// The authority in use.
    pub fn ca_pem(&self) -> Arc<String> {
        self.ca_pem.load_full()
    }

    /// Gives the connection up.
    pub fn disconnect(&mut self) {
        self.client = None;
    }

    /// Takes a rotated authority over, unless it is unusable. Returns whether it did.
    pub fn adopt_ca(&mut self, pem: &str) -> bool {
        if pem == *self.ca_pem() {
            return false;
        }
        if let Err(error) = tls_config(Some(pem)) {
            tracing::warn!(%error, "the operator sent an unusable authority; the one in use stays");
            return false;
        }
        self.ca_pem.store(Arc::new(pem.to_owned()));
        true
    }

    /// Posts JSON and takes the body of a 200; `None` stands for a 204.
    ///
    /// # Errors
    /// See [`CallError`]; the next call may make another connection.
    pub async fn call(
        &mut self,
        path: &str,
        body: &impl serde::Serialize,
        deadline: Duration,
        answer_bytes_max: usize,
    ) -> Result<Option<Bytes>, CallError> {
        let body = serde_json::to_vec(body).map_err(|error| CallError::Client(error.to_string()))?;
        let json = HeaderValue::from_static("application/json");
        judge(self.post(path, json, body, deadline, answer_bytes_max).await?, answer_bytes_max)
    }

    /// Posts text and takes whatever status comes with its body as text.
    ///
    /// # Errors
    /// There is no token, or no whole answer.
    pub async fn call_text(
        &mut self,
        path: &str,
        body: String,
        deadline: Duration,
        answer_bytes_max: usize,
    ) -> Result<(StatusCode, String), CallError> {
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        let answer = self.post(path, text, body.into_bytes(), deadline, answer_bytes_max).await?;
        if answer.cut {
            return Err(CallError::Body(format!("broken off, or more than {answer_bytes_max} bytes")));
        }
        Ok((answer.status, String::from_utf8_lossy(&answer.body).into_owned()))
    }

    async fn post(
        &mut self,
        path: &str,
        content_type: HeaderValue,
        body: Vec<u8>,
        deadline: Duration,
        answer_bytes_max: usize,
    ) -> Result<Answer, CallError> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, self.token()?.expose());
        headers.insert(CONTENT_TYPE, content_type);
        let base = self.endpoint.path().trim_end_matches('/');
        let path = format!("{base}{path}");
        let client = self.client()?;
        let answer = client.post(&path, &headers, Bytes::from(body), deadline, answer_bytes_max).await;
        answer.map_err(|error| match error.is_absence() {
            true => CallError::Absent(error_line(&error)),
            false => CallError::Client(error_line(&error)),
        })
    }

    /// The connection, unless the authority has changed since.
    fn client(&mut self) -> Result<&mut Client, CallError> {
        let ca_pem = self.ca_pem();
        let fresh = match self.client.take() {
            Some((client, under)) if under == ca_pem => (client, under),
            _ => {
                let trust = Trust { ca_pem: Some(&ca_pem), ..Trust::default() };
                let client = Client::new(self.endpoint.clone(), Version::Http1, &trust);
                (client.map_err(|error| CallError::Client(error_line(&error)))?.standing(), ca_pem)
            }
        };
        Ok(&mut self.client.insert(fresh).0)
    }

    /// The projected token; the kubelet renews the file, so it is read each time.
    fn token(&self) -> Result<Secret, CallError> {
        let fail = |reason: String| CallError::Token { file: self.operator.token_file.display().to_string(), reason };
        let text = std::fs::read_to_string(&self.operator.token_file).map_err(|error| fail(error.to_string()))?;
        if text.len() > TOKEN_BYTES_MAX {
            return Err(fail(format!("it has more than {TOKEN_BYTES_MAX} bytes")));
        }
        let token = text.trim();
        if token.is_empty() {
            return Err(fail("it is empty".to_owned()));
        }
        Secret::header(&format!("Bearer {token}")).ok_or_else(|| fail("it is not a token".to_owned()))
    }
}

fn judge(answer: Answer, answer_bytes_max: usize) -> Result<Option<Bytes>, CallError> {
    match answer.status {
        StatusCode::NO_CONTENT => Ok(None),
        StatusCode::OK if answer.cut => {
            Err(CallError::Body(format!("broken off, or more than {answer_bytes_max} bytes")))
        }
        StatusCode::OK => Ok(Some(answer.body)),
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(CallError::Unauthorized(status)),
        status => Err(CallError::Status(status)),
    }
}
