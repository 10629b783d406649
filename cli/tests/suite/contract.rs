//! The one contract of all places of content, on a repository that is reached over real HTTP.

use content::remote::{Client, Settings};
use fixtures::registry::Registry;
use oci::Host;

#[tokio::test]
async fn a_registry_behind_http_keeps_the_contract() {
    let registry = Registry::start(env!("CARGO_BIN_EXE_lighter"));
    let host: Host = registry.address().to_string().parse().unwrap();
    let credentials = content::credentials::Credentials::none();
    let client = Client::new(Settings { credentials, ..Settings::default() }).unwrap();
    content::contract::check(&client.repository(&host, &"contract/http".parse().unwrap())).await;
}
