//! The node's certificates, made by the openssl program.

use super::{NODE_IP, NODE_NAME};
use crate::steps::Log;
use anyhow::Result;
use std::path::Path;
use std::process::Command;

const DAYS_VALID: &str = "365";

struct Leaf {
    name: &'static str,
    subject: String,
    alternative_names: String,
}

fn leaves() -> Vec<Leaf> {
    let plain = |name, subject: &str| Leaf { name, subject: subject.into(), alternative_names: String::new() };
    vec![
        Leaf {
            name: "apiserver",
            subject: "/CN=kube-apiserver".into(),
            alternative_names: format!(
                "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,\
                 DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:10.96.0.1,IP:{NODE_IP}"
            ),
        },
        Leaf {
            name: "kubelet",
            subject: format!("/O=system:nodes/CN=system:node:{NODE_NAME}"),
            alternative_names: format!("DNS:{NODE_NAME},IP:{NODE_IP}"),
        },
        plain("admin", "/O=system:masters/CN=admin"),
        plain("controller-manager", "/CN=system:kube-controller-manager"),
        plain("scheduler", "/CN=system:kube-scheduler"),
        plain("proxy", "/CN=system:kube-proxy"),
        plain("apiserver-kubelet", "/O=system:masters/CN=apiserver-kubelet"),
        plain("front", "/CN=front-proxy"),
    ]
}

fn openssl(dir: &Path, log: &Log, line: &str) -> Result<()> {
    log.run(Command::new("openssl").current_dir(dir).args(line.split(' ')))
}

/// Writes the CA, the key pair for ServiceAccount tokens and all leaves into `dir/pki`.
pub fn write(dir: &Path, log: &Log) -> Result<()> {
    let pki = dir.join("pki");
    const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(
        &pki,
        log,
        &format!("req -x509 {NEW_KEY} -keyout ca.key -out ca.crt -subj /CN=kubernetes-ca -days {DAYS_VALID}"),
    )?;
    openssl(&pki, log, "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out sa.key")?;
    openssl(&pki, log, "pkey -in sa.key -pubout -out sa.pub")?;
    for leaf in leaves() {
        let Leaf { name, subject, alternative_names } = leaf;
        let mut extensions =
            String::from("extendedKeyUsage=serverAuth,clientAuth\nkeyUsage=digitalSignature,keyEncipherment\n");
        if !alternative_names.is_empty() {
            extensions.push_str(&format!("subjectAltName={alternative_names}\n"));
        }
        std::fs::write(pki.join(format!("{name}.ext")), extensions)?;
        openssl(&pki, log, &format!("req {NEW_KEY} -keyout {name}.key -out {name}.csr -subj {subject}"))?;
        openssl(
            &pki,
            log,
            &format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days {DAYS_VALID} \
                 -extfile {name}.ext -out {name}.crt"
            ),
        )?;
    }
    Ok(())
}
