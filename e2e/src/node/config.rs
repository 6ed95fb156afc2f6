//! Arguments and configuration files of the node's programs.

use super::{CNI_NETWORK, NODE_IP, NODE_NAME, POD_LINK};
use anyhow::Result;
use std::path::Path;

/// The node's programs in the order in which they start.
pub const PROGRAMS: &[&str] =
    &["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "containerd", "kubelet", "kube-proxy"];

const KUBECONFIGS: &[&str] = &["admin", "controller-manager", "scheduler", "kubelet", "proxy"];

/// The command line of one program.
pub fn arguments(name: &str, dir: &Path) -> Vec<String> {
    let text = match name {
        "etcd" => ETCD,
        "kube-apiserver" => API_SERVER,
        "kube-controller-manager" => CONTROLLER_MANAGER,
        "kube-scheduler" => SCHEDULER,
        "containerd" => "-c {dir}/containerd.toml",
        "kubelet" => KUBELET,
        "kube-proxy" => "--config={dir}/proxy.yaml",
        "kube-router" => KUBE_ROUTER,
        _ => "",
    };
    text.split_whitespace().map(|word| fill(word, dir)).collect()
}

fn fill(text: &str, dir: &Path) -> String {
    text.replace("{dir}", &dir.display().to_string())
        .replace("{node_ip}", NODE_IP)
        .replace("{node}", NODE_NAME)
        .replace("{network}", CNI_NETWORK)
        .replace("{pod_link}", POD_LINK)
}

fn files(dir: &Path) -> Vec<(String, String)> {
    let mut files = vec![
        ("cni/10-bridge.conflist".to_string(), fill(CNI, dir)),
        ("containerd.toml".to_string(), fill(CONTAINERD, dir)),
        ("kubelet.yaml".to_string(), fill(KUBELET_YAML, dir)),
        ("proxy.yaml".to_string(), fill(PROXY_YAML, dir)),
    ];
    for user in KUBECONFIGS {
        files.push((format!("{user}.kubeconfig"), fill(KUBECONFIG, dir).replace("{user}", user)));
    }
    files
}

/// Writes every configuration file below `dir`.
pub fn write(dir: &Path) -> Result<()> {
    for (name, text) in files(dir) {
        std::fs::write(dir.join(name), text)?;
    }
    Ok(())
}

/// Everything that this module writes or passes, as one text: the recipe of a node.
pub fn all(dir: &Path) -> String {
    let files = files(dir).into_iter().map(|(name, text)| format!("{name}\n{text}\n"));
    let arguments = PROGRAMS.iter().map(|name| format!("{name} {}\n", arguments(name, dir).join(" ")));
    files.chain(arguments).collect()
}

const ETCD: &str = "--data-dir {dir}/etcd --unsafe-no-fsync
 --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379
 --listen-peer-urls http://127.0.0.1:2380";

const API_SERVER: &str = "--etcd-servers=http://127.0.0.1:2379 --advertise-address={node_ip}
 --kubelet-preferred-address-types=InternalIP --bind-address=0.0.0.0 --secure-port=6443
 --service-cluster-ip-range=10.96.0.0/16 --service-account-issuer=https://kubernetes.default.svc
 --service-account-key-file={dir}/pki/sa.pub --service-account-signing-key-file={dir}/pki/sa.key
 --tls-cert-file={dir}/pki/apiserver.crt --tls-private-key-file={dir}/pki/apiserver.key
 --client-ca-file={dir}/pki/ca.crt --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction
 --kubelet-client-certificate={dir}/pki/apiserver-kubelet.crt --kubelet-client-key={dir}/pki/apiserver-kubelet.key
 --kubelet-certificate-authority={dir}/pki/ca.crt --allow-privileged=true
 --requestheader-client-ca-file={dir}/pki/ca.crt --requestheader-allowed-names=front-proxy
 --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group
 --requestheader-extra-headers-prefix=X-Remote-Extra-
 --proxy-client-cert-file={dir}/pki/front.crt --proxy-client-key-file={dir}/pki/front.key";

const CONTROLLER_MANAGER: &str = "--kubeconfig={dir}/controller-manager.kubeconfig
 --authentication-kubeconfig={dir}/controller-manager.kubeconfig
 --authorization-kubeconfig={dir}/controller-manager.kubeconfig
 --service-account-private-key-file={dir}/pki/sa.key --root-ca-file={dir}/pki/ca.crt
 --cluster-signing-cert-file={dir}/pki/ca.crt --cluster-signing-key-file={dir}/pki/ca.key
 --use-service-account-credentials=true --leader-elect=false
 --allocate-node-cidrs=true --cluster-cidr=10.244.0.0/16";

const SCHEDULER: &str = "--kubeconfig={dir}/scheduler.kubeconfig
 --authentication-kubeconfig={dir}/scheduler.kubeconfig --authorization-kubeconfig={dir}/scheduler.kubeconfig
 --leader-elect=false";

const KUBELET: &str = "--config={dir}/kubelet.yaml --kubeconfig={dir}/kubelet.kubeconfig --hostname-override={node}
 --node-ip={node_ip} --root-dir={dir}/kubelet --cert-dir={dir}/kubelet/pki";

/// The firewall and nothing else of it; IPv4, as the node is.
const KUBE_ROUTER: &str = "--kubeconfig={dir}/admin.kubeconfig --hostname-override={node}
 --run-firewall=true --run-router=false --run-service-proxy=false --run-loadbalancer=false --enable-cni=false
 --service-cluster-ip-range=10.96.0.0/16 --health-port=0 --iptables-sync-period=10s";

const KUBECONFIG: &str = r#"apiVersion: v1
kind: Config
clusters:
- name: testimony
  cluster: {server: "https://127.0.0.1:6443", certificate-authority: "{dir}/pki/ca.crt"}
users:
- name: {user}
  user: {client-certificate: "{dir}/pki/{user}.crt", client-key: "{dir}/pki/{user}.key"}
contexts:
- name: testimony
  context: {cluster: testimony, user: {user}}
current-context: testimony
"#;

const CNI: &str = r#"{"cniVersion": "1.0.0", "name": "{network}", "plugins": [
 {"type": "bridge", "bridge": "{pod_link}", "isGateway": true, "ipMasq": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": "{dir}/run/ipam", "ranges": [[{"subnet": "10.244.0.0/24"}]],
           "routes": [{"dst": "0.0.0.0/0"}]}}]}
"#;

// Network namespaces, runc's state and the optional folders stand below the node's folder, so that removing it removes
// them. `restrict_oom_score_adj`: the machine may not allow a lower OOM score.
const CONTAINERD: &str = r#"version = 3
root = "{dir}/containerd/root"
state = "{dir}/containerd/state"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
  address = "{dir}/run/containerd.sock"
[ttrpc]
  address = "{dir}/run/containerd.sock.ttrpc"
[plugins.'io.containerd.internal.v1.opt']
  path = "{dir}/containerd/opt"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "localhost/pause:1"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/usr/lib/cni", "/opt/cni/bin"]
  conf_dir = "{dir}/cni"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
    SystemdCgroup = false
    Root = "{dir}/run/runc"
"#;

const KUBELET_YAML: &str = r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
failSwapOn: false
cgroupDriver: cgroupfs
containerRuntimeEndpoint: "unix://{dir}/run/containerd.sock"
podLogsDir: "{dir}/pod-logs"
volumePluginDir: "{dir}/plugins"
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
resolvConf: /etc/resolv.conf
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: "{dir}/pki/ca.crt"}}
authorization: {mode: Webhook}
tlsCertFile: "{dir}/pki/kubelet.crt"
tlsPrivateKeyFile: "{dir}/pki/kubelet.key"
maxPods: 200
registryPullQPS: 0
serializeImagePulls: false
evictionHard: {memory.available: "100Mi", nodefs.available: "1%", imagefs.available: "1%"}
imageGCHighThresholdPercent: 99
imageGCLowThresholdPercent: 98
"#;

/// With the default period a Service may lead nowhere for a second after its pods are ready, and refuse what comes.
const PROXY_YAML: &str = r#"apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: 10.244.0.0/16
hostnameOverride: {node}
clientConnection: {kubeconfig: "{dir}/proxy.kubeconfig"}
iptables: {minSyncPeriod: 10ms, syncPeriod: 30s}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
"#;
