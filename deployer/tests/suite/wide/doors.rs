//! Ways to a cluster beside a token in a kubeconfig.

use crate::stage::Stage;
use deployer::{Cluster, ConnectOptions, Error};
use fixtures::kubernetes::User;
use fixtures::kubernetes::kubelet::Fate;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;

async fn greet(options: &ConnectOptions) -> Result<Option<String>, Error> {
    Cluster::connect(options).await?.version().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_a_token_and_an_authority_are_enough() {
    let stage = Stage::new("named", |_| Fate::Runs).await;
    let directory = tempfile::tempdir().unwrap();
    let authority = directory.path().join("ca.pem");
    std::fs::write(&authority, stage.fixture.authority()).unwrap();
    let options = |token: &str| ConnectOptions {
        server: Some(stage.fixture.server().to_owned()),
        token: Some(token.to_owned()),
        certificate_authority: Some(authority.clone()),
        namespace: Some("named".into()),
        ..ConnectOptions::default()
    };
    let cluster = Cluster::connect(&options(stage.fixture.token(User::Admin))).await.unwrap();
    assert_eq!((cluster.server(), cluster.namespace()), (stage.fixture.server(), "named"));
    let error = greet(&options("another")).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    let stranger = ConnectOptions { certificate_authority: None, ..options("x") };
    let error = greet(&stranger).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "a server that nobody vouches for is not spoken to: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_of_the_kubeconfig_logs_in() {
    let stage = Stage::new("plugin", |_| Fate::Runs).await;
    let directory = tempfile::tempdir().unwrap();
    let (plugin, config) = (directory.path().join("login"), directory.path().join("config"));
    let credential = json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {"token": stage.fixture.token(User::Admin)}});
    std::fs::write(&plugin, format!("#!/bin/sh\necho '{credential}'\n")).unwrap();
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).unwrap();
    let usual = stage.fixture.kubeconfig(User::Admin, "plugin");
    let mut kubeconfig: Value = serde_json::from_str(&std::fs::read_to_string(usual).unwrap()).unwrap();
    kubeconfig["users"][0]["user"] = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": plugin, "interactiveMode": "Never"}});
    std::fs::write(&config, kubeconfig.to_string()).unwrap();
    let options = ConnectOptions { kubeconfig: vec![config.clone()], must_exist: true, ..ConnectOptions::default() };
    assert!(greet(&options).await.is_ok());
    std::fs::write(&plugin, "#!/bin/sh\nexit 3\n").unwrap();
    let error = greet(&options).await.unwrap_err();
    assert!(matches!(error, Error::Login(_)), "{error}");
}
