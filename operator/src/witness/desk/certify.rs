//! What the witness says to a sidecar that asks for a certificate.

use super::{Desk, NOT_ITS_OWN, Reply, ReplyTo};
use crate::certs::{Authority, CertError};
use crate::index::Index;
use crate::policy_server::Identity;
use crate::witness::fair::{CERTIFICATES_PER_POD_MAX, CERTIFICATES_PER_POD_SECONDS, Room, SILENT_SECONDS};
use std::time::Duration;
use testimony_core::evidence::ledger::{Fact, KNOWN_STREAMS_MAX, STREAMS_MAX, STREAMS_PER_POD_MAX};
use testimony_core::evidence::note::PublicKey;
use testimony_core::evidence::stream::StreamId;
use time::OffsetDateTime;

/// Life of a stream's certificate, in seconds: the day that a stream lives, and time to ask for it.
pub const CERTIFICATE_SECONDS: u64 = 26 * 3600;

impl Desk {
    /// Certifies a stream's first key: the pod must be there with this injection id, and the stream be its own.
    pub fn certify(
        &mut self,
        ask: (&Identity, &str, StreamId, PublicKey),
        index: &Index,
        authority: Option<&Authority>,
        now: OffsetDateTime,
        reply: ReplyTo,
    ) {
        let (identity, injection_id, sid, key) = ask;
        let now_s = u64::try_from(now.unix_timestamp()).unwrap_or_default();
        let may = self.may_certify(identity, injection_id, &sid, &key, index);
        let may = match may {
            Ok(None) => self.make_room(&sid, now_s).map(|()| None),
            other => other,
        };
        let answer = match may {
            Ok(None) => match authority {
                Some(authority) => match self.issue(&sid, &key, authority, now) {
                    Ok(certificate) => return self.certified.push((sid, certificate, reply)),
                    Err(error) => Reply::Denied(500, error.to_string()),
                },
                None => Reply::Later("there is no certificate authority yet"),
            },
            Ok(Some(again)) => Reply::Certificate(again),
            Err(answer) => answer,
        };
        let _ = reply.send(answer);
    }

    /// `Some`: it was given already, and the answer was perhaps lost.
    fn may_certify(
        &self,
        identity: &Identity,
        injection_id: &str,
        sid: &StreamId,
        key: &PublicKey,
        index: &Index,
    ) -> Result<Option<Vec<u8>>, Reply> {
        let denied = |status, why: &str| Err(Reply::Denied(status, why.to_owned()));
        if !self.is_of(sid, identity) {
            return denied(403, NOT_ITS_OWN);
        }
        let pod = index.pod(&identity.pod_uid).filter(|pod| pod.namespace == identity.namespace);
        let Some(pod) = pod else { return Err(Reply::Later("this pod is not known yet")) };
        if !pod.traits.injected || pod.traits.injection_id.as_deref() != Some(injection_id) {
            return denied(403, "the injection id is not the one that admission wrote into this pod");
        }
        if let Some(row) = self.book.tables().stream(sid) {
            return match (&row.certificate, row.state.key == *key) {
                (Some(certificate), true) => Ok(Some(certificate.clone())),
                _ => denied(409, "this stream has a certificate: a stream gets one, for its first key"),
            };
        }
        if self.busy.contains(sid) {
            return Err(Reply::Later("this stream's certificate is being made"));
        }
        let tables = self.book.tables();
        if tables.streams().len() >= KNOWN_STREAMS_MAX {
            return Err(Reply::Later("the ledger makes room for further streams"));
        }
        if tables.live() + self.certified.len() >= STREAMS_MAX {
            return denied(429, "the ledger holds as many streams as it can");
        }
        Ok(None)
    }

    /// Makes room for one more stream of this pod.
    fn make_room(&mut self, sid: &StreamId, now_s: u64) -> Result<(), Reply> {
        let Some(parts) = sid.parts() else { return Ok(()) };
        if !self.certificates.may_have(parts.pod_uid, now_s) {
            return Err(Reply::Denied(
                429,
                format!(
                    "this pod has got {CERTIFICATES_PER_POD_MAX} certificates, as many as it may have at once: there is \
                     one more each {CERTIFICATES_PER_POD_SECONDS} seconds"
                ),
            ));
        }
        let asked = self.certified.iter().map(|(sid, ..)| sid);
        match self.pods.room(self.book.tables(), asked, &parts, now_s) {
            Room::Free => Ok(()),
            Room::After(lost) => {
                tracing::info!(stream = %sid, "a silent stream of the pod makes room for this one");
                self.push(*lost);
                Ok(())
            }
            Room::Full => Err(Reply::Denied(
                429,
                format!(
                    "this pod has {STREAMS_PER_POD_MAX} streams that go on, as many as it may have: one makes room when it \
                     closes, or when it was shown by an earlier process and not for {SILENT_SECONDS} seconds"
                ),
            )),
        }
    }

    fn issue(
        &mut self,
        sid: &StreamId,
        key: &PublicKey,
        authority: &Authority,
        now: OffsetDateTime,
    ) -> Result<Vec<u8>, CertError> {
        let (certificate, end) = authority.certify(sid, key, now, Duration::from_secs(CERTIFICATE_SECONDS))?;
        let now_s = u64::try_from(now.unix_timestamp()).unwrap_or_default();
        sid.parts().into_iter().for_each(|parts| self.certificates.given(parts.pod_uid, now_s));
        let until = u64::try_from(end.unix_timestamp()).unwrap_or_default();
        self.facts.push(Fact::Certified(sid.clone(), *key, until, certificate.clone()));
        self.busy.insert(sid.clone());
        Ok(certificate)
    }
}
