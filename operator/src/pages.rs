//! Lists, page by page.

use kube::Api;
use kube::api::ListParams;
use kube::core::ObjectList;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// One page. A list that takes longer than the API server remembers its beginning (five minutes) goes on with what is there
/// now: what was there all the time is in it, as it was or as it is. Of those that were made meanwhile some may be missing: of a
/// ledger's blocks whoever writes the next one notices.
///
/// # Errors
/// The API server does not answer, or refuses.
pub async fn page<K>(api: &Api<K>, params: &ListParams) -> kube::Result<ObjectList<K>>
where
    K: Clone + Debug + DeserializeOwned,
{
    let expired = match api.list(params).await {
        Err(kube::Error::Api(status)) if status.code == 410 => status,
        other => return other,
    };
    let token = expired.metadata.as_ref().and_then(|metadata| metadata.continue_.clone());
    match token.filter(|token| !token.is_empty()) {
        Some(token) => api.list(&params.clone().continue_token(&token)).await,
        None => Err(kube::Error::Api(expired)),
    }
}
