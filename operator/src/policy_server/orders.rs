//! Who may order what of the ledger: a person, or a program of theirs, by the cluster's own RBAC.
//!
//! A token is reviewed for our audience first, then for the API server's, as kubectl's users have it. A pod's token proves a
//! ServiceAccount here too; what it may do is RBAC's business.

use super::identity::review;
use super::{Answer, Identify, PolicyServer, Refusal, Unauthorized, bearer, body, json_answer, refusal, text_answer};
use crate::witness::WitnessDoor;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenReview, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use testimony_core::contract::TOKEN_AUDIENCE;
use testimony_core::evidence::ledger::prune::{PruneRequest, PruneResponse, REQUEST_BYTES_MAX};

/// What RBAC calls the ledger, and what it takes to order records away: no object has this kind.
pub const API_GROUP: &str = "audit.testimony.dev";
pub const RESOURCE: &str = "ledgers";
pub const VERB: &str = "prune";

/// Whether the owner of this token may prune, in the operator's namespace; and who that is.
///
/// # Errors
/// The token is not accepted, its owner lacks the right, or the API server did not answer.
pub(super) async fn may_prune(client: &Client, namespace: &str, token: &str) -> Result<String, Unauthorized> {
    let mut found = Err(Unauthorized::Refused("it is empty".to_owned()));
    for audience in [Some(TOKEN_AUDIENCE), None] {
        found = user(&review(client, token, audience).await?, audience);
        if found.is_ok() {
            break;
        }
    }
    let user = found?;
    let access: Api<SubjectAccessReview> = Api::all(client.clone());
    let answer = access.create(&PostParams::default(), &question(&user, namespace)).await;
    allowed(&answer.map_err(|error| Unauthorized::Unavailable(error.to_string()))?, user)
}

/// Who a review says that it is.
fn user(review: &TokenReview, audience: Option<&str>) -> Result<UserInfo, Unauthorized> {
    let status = review.status.clone().unwrap_or_default();
    // An authenticator that knows no audiences leaves them out: then the token is the API server's.
    let meant = audience.is_none_or(|audience| status.audiences.iter().flatten().any(|one| one == audience));
    let named = status.user.filter(|user| user.username.as_ref().is_some_and(|name| !name.is_empty()));
    match named {
        Some(user) if meant && status.authenticated.unwrap_or_default() => Ok(user),
        _ => Err(Unauthorized::Refused(status.error.unwrap_or_else(|| "the API server does not know it".to_owned()))),
    }
}

fn question(user: &UserInfo, namespace: &str) -> SubjectAccessReview {
    let text = |text: &str| Some(text.to_owned());
    let attributes = ResourceAttributes {
        group: text(API_GROUP),
        resource: text(RESOURCE),
        verb: text(VERB),
        namespace: text(namespace),
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: user.username.clone(),
        groups: user.groups.clone(),
        uid: user.uid.clone(),
        extra: user.extra.clone(),
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    SubjectAccessReview { metadata: ObjectMeta::default(), spec, status: None }
}

fn allowed(review: &SubjectAccessReview, user: UserInfo) -> Result<String, Unauthorized> {
    let user = user.username.unwrap_or_default();
    match &review.status {
        Some(status) if status.allowed && !status.denied.unwrap_or_default() => Ok(user),
        _ => Err(Unauthorized::Forbidden(format!(
            "{user} may not {VERB} {RESOURCE}.{API_GROUP}: bind the ClusterRole testimony-ledger-prune to it"
        ))),
    }
}

impl<I: Identify> PolicyServer<I> {
    /// Takes an order to the ledger.
    pub(super) async fn order(
        &self,
        door: WitnessDoor,
        request: Request<Incoming>,
    ) -> Result<(Answer, &'static str), Refusal> {
        let bad = |text: String| (text_answer(StatusCode::BAD_REQUEST, format!("{text}\n")), "bad_request");
        let Some(token) = bearer(request.headers()) else {
            let answer = text_answer(StatusCode::UNAUTHORIZED, "send a token of the cluster as Bearer\n");
            return Err((answer, "unauthorized"));
        };
        let by = self.identify.may_prune(token).await.map_err(|error| {
            tracing::warn!(%error, "an order to prune is refused");
            refusal(&error)
        })?;
        let body = body(request, REQUEST_BYTES_MAX).await.map_err(|answer| (answer, "bad_request"))?;
        let order: PruneRequest = serde_json::from_slice(&body).map_err(|error| bad(format!("prune: {error}")))?;
        let (reason, removal) = (order.reason.clone(), order.removal);
        let entries = order.entries(&by).map_err(|error| bad(format!("prune: {error}")))?;
        let records: u64 = entries.iter().map(|entry| entry.range.end() - entry.range.begin()).sum();
        let orders = entries.len();
        match door.prune(removal, entries).await {
            Ok(()) => {
                tracing::info!(
                    by,
                    reason,
                    ?removal,
                    orders,
                    records,
                    "records are removed by order: it stands in the ledger"
                );
                let answer = serde_json::to_vec(&PruneResponse { by }).unwrap_or_default();
                Ok((json_answer(StatusCode::OK, answer), "pruned"))
            }
            Err((answer, result)) => {
                tracing::warn!(by, reason, orders, records, result, "an order to prune is refused");
                Err((answer, result))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::asked;
    use super::*;
    use serde_json::{Value, json};

    fn reviewed(status: Value) -> TokenReview {
        serde_json::from_value(json!({"metadata": {}, "spec": {"token": "t"}, "status": status})).expect("a review")
    }

    #[test]
    fn a_token_is_taken_for_the_audience_that_it_was_reviewed_for() {
        let alice = json!({"username": "alice", "groups": ["auditors"], "uid": "u", "extra": {"scope": ["x"]}});
        let ours = reviewed(json!({"authenticated": true, "audiences": [TOKEN_AUDIENCE], "user": alice}));
        let servers = reviewed(json!({"authenticated": true, "user": alice}));
        assert!(user(&ours, Some(TOKEN_AUDIENCE)).is_ok() && user(&servers, None).is_ok());
        assert!(user(&servers, Some(TOKEN_AUDIENCE)).is_err(), "it is not known for whom it was made");
        for status in [
            json!({"authenticated": false, "error": "expired"}),
            json!({"authenticated": true, "user": {"username": ""}}),
            json!({"authenticated": true}),
            json!({}),
        ] {
            assert!(matches!(user(&reviewed(status), None), Err(Unauthorized::Refused(_))));
        }
        let access =
            serde_json::to_value(question(&user(&servers, None).expect("alice"), "testimony-system")).expect("JSON");
        assert_eq!(
            access["spec"],
            json!({"user": "alice", "groups": ["auditors"], "uid": "u", "extra": {"scope": ["x"]},
                   "resourceAttributes": {"group": "audit.testimony.dev", "resource": "ledgers", "verb": "prune",
                                          "namespace": "testimony-system"}})
        );
        assert_eq!(asked("t", None).spec.audiences, None);
    }

    #[test]
    fn rbac_decides_and_a_denial_wins() {
        let verdict = |status: Value| {
            let answer = json!({"metadata": {}, "spec": {}, "status": status});
            let alice = UserInfo { username: Some("alice".to_owned()), ..UserInfo::default() };
            allowed(&serde_json::from_value(answer).expect("a review"), alice)
        };
        assert_eq!(verdict(json!({"allowed": true})), Ok("alice".to_owned()));
        for status in [json!({"allowed": false}), json!({"allowed": true, "denied": true})] {
            let refused = verdict(status).expect_err("refused").to_string();
            assert!(refused.starts_with("alice may not prune ledgers.audit.testimony.dev"), "{refused}");
        }
    }

    #[test]
    fn the_chart_has_the_role_and_lets_the_controller_ask() {
        let rights = include_str!("../../../charts/testimony/templates/rbac.yaml");
        assert!(rights.contains("name: testimony-ledger-prune"));
        assert!(rights.contains(&format!("resources: [{RESOURCE}]\n    verbs: [{VERB}]")));
        assert!(rights.contains("resources: [subjectaccessreviews]"));
    }
}
