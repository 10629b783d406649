//! Who may do what, over HTTP: users, robots, tokens of our own, and what nobody may.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use oci::Digest;
use registry::access::{AccessSettings, NewRobot, Right, RobotFile};
use registry::{Rate, Server, Settings};
use serde_json::{Value, json};

use crate::client::{Http, MANIFEST, Registry, Reply, image};

/// Rules as they are written in the configuration.
pub fn rules(rules: Value) -> AccessSettings {
    AccessSettings { rules: serde_json::from_value(rules).expect("rules"), ..AccessSettings::default() }
}

/// A registry with access rules and with users whose passwords are their names backwards.
pub async fn guarded(access: AccessSettings) -> Registry {
    guarded_with(access, |_| ()).await
}

pub async fn guarded_with(mut access: AccessSettings, change: impl FnOnce(&mut Settings)) -> Registry {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    let line = |user: &str| format!("{user}:{}\n", bcrypt::hash(password(user), 4).unwrap());
    std::fs::write(&file, ["alice", "bob", "carol"].map(line).concat()).unwrap();
    access.htpasswd = Some(file);
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap(), dir.path().join("data"));
    settings.access = Some(access);
    change(&mut settings);
    Registry::start_with(dir, settings).await
}

fn password(user: &str) -> String {
    user.chars().rev().collect()
}

pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// A client that shows a login with every request.
pub struct As<'a>(pub &'a Http, pub String);

impl As<'_> {
    pub async fn send(&self, method: &str, path: &str, body: impl Into<bytes::Bytes>) -> Reply {
        self.0.send(method, path, &[("authorization", &self.1), ("content-type", MANIFEST)], body).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "").await
    }

    pub async fn push_blob(&self, name: &str, content: &[u8]) -> Reply {
        let digest = Digest::of(content);
        self.send("POST", &format!("/v2/{name}/blobs/uploads/?digest={digest}"), content.to_vec()).await
    }

    /// Pushes an image; gives the answer to its manifest.
    pub async fn push(&self, name: &str, tag: &str, layer: &[u8]) -> Reply {
        self.push_blob(name, layer).await.expect(201);
        self.push_blob(name, b"{}").await.expect(201);
        self.send("PUT", &format!("/v2/{name}/manifests/{tag}"), image(layer)).await
    }
}

fn user<'a>(registry: &'a Registry, name: &str) -> As<'a> {
    As(&registry.http, basic(name, &password(name)))
}

/// Asks the token endpoint, and shows what it gives from then on.
async fn with_token<'a>(registry: &'a Registry, login: Option<&str>, scope: &str) -> As<'a> {
    let headers: Vec<(&str, &str)> = login.iter().map(|login| ("authorization", *login)).collect();
    let path = format!("/token?service=x&scope={scope}");
    let answer = registry.http.send("GET", &path, &headers, "").await.expect(200).json();
    assert_eq!(answer["token"], answer["access_token"]);
    assert!(answer["expires_in"].as_u64().unwrap() >= 60);
    answer["issued_at"].as_str().unwrap().parse::<Timestamp>().unwrap();
    As(&registry.http, format!("Bearer {}", answer["token"].as_str().unwrap()))
}

fn challenge(reply: &Reply) -> String {
    reply.header("www-authenticate").to_owned()
}

fn team() -> AccessSettings {
    rules(json!([
        {"subjects": ["anonymous"], "repositories": ["public/**"], "rights": ["pull"]},
        {"subjects": ["user:alice"], "repositories": ["**"], "rights": ["pull", "push", "delete", "overwrite"]},
        {"subjects": ["user:bob"], "repositories": ["public/**", "bob/**"], "rights": ["pull", "push"]},
        {"subjects": ["user:bob"], "repositories": ["bob/**"], "tags": ["dev-*"], "rights": ["overwrite", "delete"]},
        {"subjects": ["user:carol"], "repositories": ["bob/**"], "tags": ["v*"], "rights": ["pull"]},
    ]))
}

#[tokio::test]
async fn without_a_login_there_is_one_challenge_that_says_where_and_for_what() {
    let registry = guarded(team()).await;
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"lighter-registry\"", registry.http.addr);
    for path in ["/v2/", "/v2"] {
        let reply = registry.http.get(path).await.refuses(401, "UNAUTHORIZED");
        assert_eq!(challenge(&reply), realm);
    }
    for (method, path, scope) in [
        ("GET", "/v2/private/a/manifests/v1", "repository:private/a:pull"),
        ("GET", "/v2/private/a/tags/list", "repository:private/a:pull"),
        ("PUT", "/v2/public/a/manifests/v1", "repository:public/a:pull,push"),
        ("POST", "/v2/public/a/blobs/uploads/", "repository:public/a:pull,push"),
        (
            "POST",
            "/v2/public/a/blobs/uploads/?mount=sha256:00&from=private/b",
            "repository:public/a:pull,push repository:private/b:pull",
        ),
        ("DELETE", "/v2/public/a/manifests/v1", "repository:public/a:delete"),
        ("GET", "/v2/_catalog", "registry:catalog:*"),
    ] {
        let reply = registry.http.send(method, path, &[], "").await.refuses(401, "UNAUTHORIZED");
        assert_eq!(challenge(&reply), format!("{realm},scope=\"{scope}\""), "{method} {path}");
        assert_eq!(reply.headers.get_all("www-authenticate").iter().count(), 1);
    }
    // Reading what everybody may read is never challenged: containerd sends no ping first.
    registry.http.get("/v2/public/a/manifests/v1").await.refuses(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn logins_of_users_work_directly_and_by_token() {
    let registry = guarded(team()).await;
    let bob = user(&registry, "bob");
    bob.get("/v2/").await.expect(200);
    bob.push("public/a", "v1", b"layer").await.expect(201);
    registry.http.get("/v2/public/a/manifests/v1").await.expect(200);
    bob.push_blob("private/a", b"x").await.refuses(403, "DENIED");
    for (name, secret) in [("bob", "wrong"), ("bob", ""), ("nobody", "x"), ("", "bob")] {
        let wrong = As(&registry.http, basic(name, secret));
        let reply = wrong.get("/v2/public/a/manifests/v1").await.refuses(401, "UNAUTHORIZED");
        assert!(challenge(&reply).starts_with("Bearer realm="), "{name}");
        registry.http.send("GET", "/token", &[("authorization", &wrong.1)], "").await.refuses(401, "UNAUTHORIZED");
    }
    for header in ["Basic", "Basic %%%", "Basic YQ==", "Digest x", "Bearer", "Bearer x", "Bearer a.b.c"] {
        let show = [("authorization", header)];
        registry.http.send("GET", "/v2/public/a/tags/list", &show, "").await.refuses(401, "UNAUTHORIZED");
    }
    // A client that drops a bad token, and asks for one for what the challenge says, gets on.
    let bad = [("authorization", "Bearer a.b.c")];
    for (method, path, scope) in [
        ("GET", "/v2/public/a/tags/list", "repository:public/a:pull"),
        ("POST", "/v2/public/a/blobs/uploads/", "repository:public/a:pull,push"),
        ("GET", "/v2/_catalog", "registry:catalog:*"),
    ] {
        let reply = registry.http.send(method, path, &bad, "").await.refuses(401, "UNAUTHORIZED");
        let wanted = format!("scope=\"{scope}\",error=\"invalid_token\"");
        assert!(challenge(&reply).ends_with(&wanted), "{}", challenge(&reply));
    }
    let reply = registry.http.send("GET", "/v2/", &bad, "").await.refuses(401, "UNAUTHORIZED");
    assert!(challenge(&reply).ends_with(",error=\"invalid_token\""), "{}", challenge(&reply));
    // Podman's libraries send an empty login where they have none.
    let nobody = As(&registry.http, basic("", ""));
    nobody.get("/v2/public/a/manifests/v1").await.expect(200);
    nobody.get("/v2/").await.refuses(401, "UNAUTHORIZED");

    let login = basic("bob", "bob");
    let token = with_token(&registry, Some(&login), "repository:public/b:pull,push").await;
    token.get("/v2/").await.expect(200);
    token.push("public/b", "v1", b"other").await.expect(201);
    let reply = token.push_blob("bob/x", b"x").await.refuses(401, "UNAUTHORIZED");
    assert!(challenge(&reply).ends_with(",error=\"insufficient_scope\""), "{}", challenge(&reply));
    token.push_blob("private/x", b"x").await.refuses(403, "DENIED");
    let anonymous = with_token(&registry, None, "repository:public/b:pull,push").await;
    anonymous.get("/v2/").await.expect(200);
    anonymous.get("/v2/public/b/manifests/v1").await.expect(200);
    anonymous.push_blob("public/b", b"x").await.refuses(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn tokens_are_given_to_forms_as_containerd_sends_them() {
    let registry = guarded(team()).await;
    let post = |form: &'static str| {
        let http = registry.http.clone();
        async move {
            let kind = [("content-type", "application/x-www-form-urlencoded")];
            http.send("POST", "/token", &kind, form).await
        }
    };
    let answer = post(
        "grant_type=password&client_id=containerd-client&service=lighter-registry&username=bob&password=bob\
         &scope=repository%3Apublic%2Fa%3Apull%2Cpush+repository%3Aprivate%3Apull",
    )
    .await
    .expect(200)
    .json();
    assert_eq!(answer["scope"], json!("repository:public/a:pull,push"), "only what bob may do");
    let token = As(&registry.http, format!("Bearer {}", answer["access_token"].as_str().unwrap()));
    token.push("public/a", "v1", b"layer").await.expect(201);
    post("grant_type=password&username=bob&password=wrong").await.refuses(401, "UNAUTHORIZED");
    post("grant_type=refresh_token&refresh_token=x").await.refuses(401, "UNAUTHORIZED");
    for form in ["", "grant_type=password", "&&&=%zz"] {
        let status = post(form).await.status.as_u16();
        // An empty login is nobody's: a token of nobody is harmless.
        assert!(status == 400 || form == "grant_type=password" && status == 200, "{form} {status}");
    }
    let large = "x".repeat(100_000);
    registry.http.send("POST", "/token", &[], large).await.refuses(413, "UNSUPPORTED");
    registry.http.send("PUT", "/token", &[], "").await.refuses(405, "UNSUPPORTED");
}

#[tokio::test]
async fn lists_and_mounts_show_only_what_may_be_pulled() {
    let registry = guarded(team()).await;
    let (alice, bob) = (user(&registry, "alice"), user(&registry, "bob"));
    for name in ["bob/b", "private/a", "public/c", "zzz"] {
        alice.push(name, "v1", name.as_bytes()).await.expect(201);
    }
    alice.push("bob/b", "dev-1", b"bob/b").await.expect(201);
    alice.push("bob/b", "v2", b"bob/b").await.expect(201);
    let catalog = |reply: Reply| reply.json()["repositories"].clone();
    assert_eq!(catalog(alice.get("/v2/_catalog").await), json!(["bob/b", "private/a", "public/c", "zzz"]));
    assert_eq!(catalog(bob.get("/v2/_catalog").await), json!(["bob/b", "public/c"]));
    let page = bob.get("/v2/_catalog?n=1").await.expect(200);
    assert_eq!(page.header("link"), "</v2/_catalog?n=1&last=bob%2Fb>; rel=\"next\"");
    assert_eq!(catalog(page), json!(["bob/b"]));
    let page = bob.get("/v2/_catalog?n=1&last=bob%2Fb").await.expect(200);
    assert!(page.headers.get("link").is_none(), "what may not be seen makes no further page");
    assert_eq!(catalog(page), json!(["public/c"]));
    let anonymous = with_token(&registry, None, "registry:catalog:*").await;
    assert_eq!(catalog(anonymous.get("/v2/_catalog").await), json!(["public/c"]));
    let narrow = with_token(&registry, Some(&basic("bob", "bob")), "repository:bob/b:pull").await;
    narrow.get("/v2/_catalog").await.refuses(401, "UNAUTHORIZED");

    let carol = user(&registry, "carol");
    assert_eq!(carol.get("/v2/bob/b/tags/list").await.expect(200).json()["tags"], json!(["v1", "v2"]));
    let first = carol.get("/v2/bob/b/tags/list?n=1").await.expect(200);
    assert_eq!((first.json()["tags"].clone(), first.header("link").is_empty()), (json!(["v1"]), false));
    carol.get("/v2/bob/b/manifests/dev-1").await.refuses(403, "DENIED");
    carol.get("/v2/bob/b/manifests/v1").await.expect(200);

    let digest = Digest::of(b"private/a");
    for query in [format!("mount={digest}&from=private/a"), format!("mount={digest}")] {
        bob.send("POST", &format!("/v2/bob/b/blobs/uploads/?{query}"), "").await.expect(202);
        alice.send("POST", &format!("/v2/alice/{}/blobs/uploads/?{query}", query.len()), "").await.expect(201);
    }
    let digest = Digest::of(b"public/c");
    bob.send("POST", &format!("/v2/bob/b/blobs/uploads/?mount={digest}"), "").await.expect(201);
}

#[tokio::test]
async fn tags_change_and_go_only_by_those_who_may() {
    let registry = guarded(team()).await;
    let (alice, bob) = (user(&registry, "alice"), user(&registry, "bob"));
    bob.push("bob/a", "v1", b"one").await.expect(201);
    bob.push("bob/a", "v1", b"one").await.expect(201); // nothing changes
    let reply = bob.push("bob/a", "v1", b"two").await.refuses(403, "DENIED");
    assert_eq!(reply.json()["errors"][0]["detail"], json!({"tag": "v1", "right": "overwrite"}));
    bob.push("bob/a", "dev-1", b"one").await.expect(201);
    bob.push("bob/a", "dev-1", b"two").await.expect(201);
    let digest = Digest::of(&image(b"two"));
    let several = format!("/v2/bob/a/manifests/{digest}?tag=new&tag=v1");
    bob.send("PUT", &several, image(b"two")).await.refuses(403, "DENIED");
    bob.get("/v2/bob/a/manifests/new").await.refuses(404, "MANIFEST_UNKNOWN"); // all or nothing
    bob.send("DELETE", "/v2/bob/a/manifests/v1", "").await.refuses(403, "DENIED");
    bob.send("DELETE", "/v2/bob/a/manifests/dev-1", "").await.expect(202);
    bob.send("DELETE", &format!("/v2/bob/a/manifests/{digest}"), "").await.refuses(403, "DENIED");
    bob.send("DELETE", &format!("/v2/bob/a/blobs/{}", Digest::of(b"one")), "").await.refuses(403, "DENIED");
    alice.push("bob/a", "v1", b"three").await.expect(201);
    alice.send("DELETE", "/v2/bob/a/manifests/v1", "").await.expect(202);
}

#[tokio::test]
async fn robots_come_go_and_expire_while_the_registry_runs() {
    let access = rules(json!([{"subjects": ["robot:reader"], "repositories": ["**"], "rights": ["pull"]}]));
    let registry = guarded(access).await;
    let file = RobotFile::of(&registry.data().join("data"));
    let make = |name: &str, expires, rights: &[Right]| {
        let repositories = vec!["ci/*".parse().unwrap()];
        let new = NewRobot { name: name.to_owned(), expires, repositories, rights: rights.to_vec() };
        file.create(new, Timestamp::now()).unwrap()
    };
    let (robot, token) = make("ci", None, &[Right::Pull, Right::Push]);
    let ci = As(&registry.http, basic("whoever", &token));
    ci.push("ci/a", "v1", b"layer").await.expect(201);
    ci.push_blob("other/a", b"x").await.refuses(403, "DENIED");
    As(&registry.http, format!("Bearer {token}")).get("/v2/ci/a/tags/list").await.expect(200);
    let (_, reader) = make("reader", None, &[]);
    As(&registry.http, basic("reader", &reader)).get("/v2/ci/a/manifests/v1").await.expect(200);
    let (_, old) = make("ci", Some(Timestamp::now()), &[Right::Pull]);
    As(&registry.http, basic("ci", &old)).get("/v2/ci/a/tags/list").await.refuses(401, "UNAUTHORIZED");

    let own = with_token(&registry, Some(&ci.1), "repository:ci/a:pull,push").await;
    own.get("/v2/ci/a/tags/list").await.expect(200);
    file.revoke(&robot.id).unwrap();
    ci.get("/v2/ci/a/tags/list").await.refuses(401, "UNAUTHORIZED");
    own.get("/v2/ci/a/tags/list").await.refuses(401, "UNAUTHORIZED"); // with its tokens
}

#[tokio::test]
async fn tokens_live_through_a_restart_and_not_in_another_registry() {
    let dir = tempfile::tempdir().unwrap();
    let settings = || {
        let mut settings = Settings::new("127.0.0.1:0".parse().unwrap(), dir.path().join("data"));
        let open = json!([{"subjects": ["anonymous"], "repositories": ["**"], "rights": ["pull", "push"]}]);
        settings.access = Some(rules(open));
        settings
    };
    let first = Registry::start_with(tempfile::tempdir().unwrap(), settings()).await;
    let token = with_token(&first, None, "repository:a:pull").await.1;
    drop(first.stop().await);
    let again = Registry::start_with(tempfile::tempdir().unwrap(), settings()).await;
    As(&again.http, token.clone()).get("/v2/").await.expect(200);
    let other = guarded(team()).await;
    As(&other.http, token).get("/v2/").await.refuses(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_back() {
    let rate = Rate { per_second: 0.001, burst: 3.0, patience: std::time::Duration::ZERO };
    let registry = guarded_with(team(), |settings| settings.pace = Some(rate)).await;
    let path = "/v2/public/a/manifests/v1";
    for _ in 0..3 {
        registry.http.get(path).await.expect(404);
    }
    let reply = registry.http.get(path).await.refuses(429, "TOOMANYREQUESTS");
    let wait: u64 = reply.header("retry-after").parse().unwrap();
    assert!((1..=1000).contains(&wait), "{wait}");
    user(&registry, "bob").get(path).await.expect(404); // somebody else
}

#[tokio::test]
async fn guessing_a_password_is_slowed_down_for_that_user_only() {
    let registry = guarded(team()).await;
    for _ in 0..20 {
        As(&registry.http, basic("bob", "wrong")).get("/v2/").await.refuses(401, "UNAUTHORIZED");
    }
    let reply = user(&registry, "bob").get("/v2/").await.refuses(429, "TOOMANYREQUESTS");
    assert!(!reply.header("retry-after").is_empty());
    user(&registry, "alice").get("/v2/").await.expect(200);
}

#[tokio::test]
async fn an_address_that_others_reach_needs_rules() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::new("0.0.0.0:0".parse().unwrap(), dir.path());
    settings.access = Some(team_without_users());
    drop(Server::bind(settings).await.expect("rules protect it"));
}

fn team_without_users() -> AccessSettings {
    rules(json!([{"subjects": ["anonymous"], "repositories": ["**"], "rights": ["pull"]}]))
}

/// Sends a form to the token endpoint.
async fn by_form(registry: &Registry, form: &str) -> Reply {
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    registry.http.send("POST", "/token", &headers, form.to_owned()).await
}

#[tokio::test]
async fn a_login_that_a_client_keeps_ends_with_its_password_its_robot_and_its_time() {
    let registry = guarded(team()).await;
    let refresh = |reply: Reply| reply.expect(200).json()["refresh_token"].as_str().map(str::to_owned);
    let login = basic("bob", &password("bob"));
    let asked = |query: &str| {
        let (http, path, login) = (registry.http.clone(), format!("/token?service=x{query}"), login.clone());
        async move { http.send("GET", &path, &[("authorization", &login)], "").await }
    };
    assert_eq!(refresh(asked("").await), None, "only who asks for it gets one");
    let by_get = refresh(asked("&offline_token=true").await).unwrap();
    let form = "grant_type=password&username=bob&password=bob&access_type=offline&client_id=x&service=x";
    let by_post = refresh(by_form(&registry, form).await).unwrap();
    let (robot, token) = RobotFile::of(&registry.data().join("data"))
        .create(
            NewRobot {
                name: "ci".to_owned(),
                expires: None,
                repositories: vec!["bob/*".parse().unwrap()],
                rights: vec![Right::Pull],
            },
            Timestamp::now(),
        )
        .unwrap();
    let form = format!("grant_type=password&username=x&password={token}&access_type=offline");
    let of_robot = refresh(by_form(&registry, &form).await).unwrap();

    let exchanged = |token: String| {
        let form = format!(
            "grant_type=refresh_token&client_id=docker&service=x&scope=repository:bob/a:pull&refresh_token={token}"
        );
        let registry = &registry;
        async move { by_form(registry, &form).await }
    };
    for token in [&by_get, &by_post, &of_robot] {
        let answer = exchanged(token.clone()).await.expect(200).json();
        assert_eq!(answer["refresh_token"], Value::Null, "it does not renew itself");
        let bearer = As(&registry.http, format!("Bearer {}", answer["access_token"].as_str().unwrap()));
        bearer.get("/v2/bob/a/manifests/v1").await.refuses(404, "MANIFEST_UNKNOWN");
        // By itself it is no login, and neither does a token that it gave make another.
        As(&registry.http, format!("Bearer {token}")).get("/v2/bob/a/manifests/v1").await.refuses(401, "UNAUTHORIZED");
        As(&registry.http, basic("bob", token)).get("/v2/bob/a/manifests/v1").await.refuses(401, "UNAUTHORIZED");
        assert_eq!(refresh(bearer.get("/token?offline_token=true").await), None);
    }
    assert_eq!(refresh(registry.http.get("/token?offline_token=true").await), None, "nobody has nothing to keep");
    for wrong in ["", "x", "eyJ.eyJ.x", &by_get[..by_get.len() - 2]] {
        exchanged(wrong.to_owned()).await.refuses(401, "UNAUTHORIZED");
    }
    RobotFile::of(&registry.data().join("data")).revoke(&robot.id).unwrap();
    exchanged(of_robot).await.refuses(401, "UNAUTHORIZED");
    let line = |user: &str, password: &str| format!("{user}:{}\n", bcrypt::hash(password, 4).unwrap());
    std::fs::write(registry.data().join("users"), line("bob", "changed")).unwrap();
    exchanged(by_get).await.refuses(401, "UNAUTHORIZED");
    exchanged(by_post).await.refuses(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn no_login_is_kept_where_that_is_not_wanted() {
    let registry = guarded(AccessSettings { refresh_life: std::time::Duration::ZERO, ..team() }).await;
    let answer = user(&registry, "bob").get("/token?offline_token=true").await.expect(200).json();
    assert_eq!(answer["refresh_token"], Value::Null);
}
