//! Requests to the API server: paths, bytes and the meaning of its refusals. What to ask for is decided
//! elsewhere. A server that is busy is asked again for a while; a write only if it was surely not done.

use crate::error::Error;
use crate::object::{ObjectName, Resource, segment};
use crate::ownership::{self, MANAGER};
use crate::redact::redact;
use crate::rights::RoleRule;
use http::{Request, header};
use kube::core::Status;
use serde_json::{Value, json};
use std::time::Duration;

/// How long one request may take, further attempts included.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// Pauses before a busy server (429, 503, 504) is asked again, in milliseconds, unless it asks for longer ones.
const PAUSES: [u64; 5] = [100, 200, 400, 800, 1600];
/// Most objects that one answer may hold.
const PAGE: usize = 500;
/// Most bytes of a container's log that are asked for.
const LOG_LIMIT: usize = 16 << 10;

/// What a patch's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patch {
    /// `application/strategic-merge-patch+json`
    Merge,
    /// The same, for what we note on an object: its own owner, so that the next apply of a manifest, which
    /// takes over what we patched, does not remove it.
    Note {
        /// Whether the object is of a custom kind, which takes no strategic merge.
        custom: bool,
    },
    /// `application/json-patch+json`
    Json,
    /// `application/merge-patch+json`: lists are replaced as a whole. The only one that custom resources take.
    Plain,
    /// `application/apply-patch+yaml`: server-side apply.
    Apply {
        /// Whether fields of others may be taken.
        force: bool,
    },
}

/// The API of one cluster, in the name of one user.
#[derive(Clone)]
pub(crate) struct Api {
    client: kube::Client,
    server: String,
    /// The user in whose name requests are, if that is not the one who logs in.
    acts_as: Option<String>,
}

/// When a request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resend {
    /// Whatever was answered: it changes nothing.
    Always,
    /// Only if the server surely did nothing. After 503 and 504 it may have, and whoever wrote since would lose.
    Refused,
}

/// What is being done, for the sentence and the role rule of a refusal.
struct Call<'a> {
    verb: &'a str,
    resource: &'a Resource,
    subresource: &'a str,
    object: Option<&'a ObjectName>,
    namespace: Option<&'a str>,
}

impl Api {
    pub(crate) fn new(client: kube::Client, server: String, acts_as: Option<String>) -> Api {
        Api { client, server, acts_as }
    }

    pub(crate) fn client(&self) -> kube::Client {
        self.client.clone()
    }

    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// GETs a document that is no object of anybody: discovery, version.
    pub(crate) async fn document(&self, path: &str) -> Result<Option<Value>, Error> {
        let request = Request::get(path).header(header::ACCEPT, "application/json");
        match self.read(request).await {
            Ok(value) => Ok(Some(value)),
            Err(Failure::Status(status)) if status.code == 404 => Ok(None),
            Err(Failure::Status(status)) if status.code == 403 => {
                let rule = RoleRule { verb: "get".into(), resource: path.into(), ..RoleRule::default() };
                Err(Error::Forbidden { message: redact(&status.message), rule: Box::new(rule) })
            }
            Err(failure) => Err(self.plain_error(path, failure)),
        }
    }

    /// GETs an object; `None` if it does not exist.
    pub(crate) async fn get(&self, object: &ObjectName) -> Result<Option<Value>, Error> {
        let request = Request::get(object.path()).header(header::ACCEPT, "application/json");
        match self.read(request).await {
            Ok(value) => Ok(Some(value)),
            Err(Failure::Status(status)) if status.code == 404 => Ok(None),
            Err(failure) => Err(self.error(&Call::on("get", object), failure)),
        }
    }

    /// GETs all objects of a kind.
    pub(crate) async fn list(&self, resource: &Resource, namespace: Option<&str>) -> Result<Vec<Value>, Error> {
        self.list_labelled(resource, namespace, "").await
    }

    /// GETs all objects of a kind that a label selector selects, page by page; all if it is empty.
    pub(crate) async fn list_labelled(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        selector: &str,
    ) -> Result<Vec<Value>, Error> {
        let call = Call { verb: "list", resource, subresource: "", object: None, namespace };
        let (mut items, mut next) = (Vec::new(), String::new());
        loop {
            let mut query = format!("limit={PAGE}");
            for (name, value) in [("labelSelector", selector), ("continue", next.as_str())] {
                if !value.is_empty() {
                    query += &format!("&{name}={}", segment(value));
                }
            }
            let request = Request::get(format!("{}?{query}", resource.path(namespace)))
                .header(header::ACCEPT, "application/json");
            let mut list = self.read(request).await.map_err(|failure| self.error(&call, failure))?;
            if let Value::Array(page) = list["items"].take() {
                items.extend(page);
            }
            next = list["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            if next.is_empty() {
                return Ok(items);
            }
        }
    }

    /// POSTs a new object and returns what it became.
    pub(crate) async fn create(&self, object: &ObjectName, body: &Value, dry_run: bool) -> Result<Value, Error> {
        let dry_run = if dry_run { "&dryRun=All" } else { "" };
        let path = object.resource.path(object.namespace.as_deref());
        let request = Request::post(format!("{path}?fieldManager={MANAGER}&fieldValidation=Strict{dry_run}"))
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json");
        let sent = self.write(request, body.to_string().into_bytes()).await;
        sent.map_err(|failure| self.error(&Call::on("create", object), failure))
    }

    /// DELETEs an object, if it is the one with this uid; what it owns goes with it. One that is gone already is fine.
    pub(crate) async fn delete(&self, object: &ObjectName, uid: Option<&str>, dry_run: bool) -> Result<(), Error> {
        let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
        if let Some(uid) = uid {
            options["preconditions"] = json!({"uid": uid});
        }
        if dry_run {
            options["dryRun"] = json!(["All"]);
        }
        let request = Request::delete(object.path())
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json");
        match self.write(request, options.to_string().into_bytes()).await {
            Ok(_) => Ok(()),
            Err(Failure::Status(status)) if status.code == 404 => Ok(()),
            Err(failure) => Err(self.error(&Call::on("delete", object), failure)),
        }
    }

    /// POSTs a question to the server, such as what this user may do. It is answered and not kept.
    pub(crate) async fn review(&self, path: &str, body: &Value) -> Result<Value, Error> {
        let request = Request::post(path)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json");
        let sent = self.send(request, body.to_string().into_bytes(), Resend::Always).await;
        sent.map_err(|failure| self.plain_error(path, failure))
    }

    /// PATCHes an object in our name and returns what it became. `fieldValidation` refuses misspelt fields
    /// from Kubernetes 1.25 on; older servers ignore it.
    pub(crate) async fn patch(
        &self,
        object: &ObjectName,
        kind: Patch,
        body: &Value,
        dry_run: bool,
    ) -> Result<Value, Error> {
        let mut query = match kind {
            Patch::Apply { force } => format!("fieldManager={MANAGER}&force={force}&fieldValidation=Strict"),
            Patch::Merge | Patch::Plain => format!("fieldManager={MANAGER}&fieldValidation=Strict"),
            Patch::Note { .. } => format!("fieldManager={MANAGER}-notes"),
            Patch::Json => format!("fieldManager={MANAGER}"),
        };
        if dry_run {
            query += "&dryRun=All";
        }
        let content = match kind {
            Patch::Merge | Patch::Note { custom: false } => "application/strategic-merge-patch+json",
            Patch::Json => "application/json-patch+json",
            Patch::Plain | Patch::Note { custom: true } => "application/merge-patch+json",
            Patch::Apply { .. } => "application/apply-patch+yaml", // JSON is YAML
        };
        let request = Request::patch(format!("{}?{query}", object.path()))
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, content);
        let bytes = body.to_string().into_bytes();
        let sent =
            if dry_run { self.send(request, bytes, Resend::Always).await } else { self.write(request, bytes).await };
        sent.map_err(|failure| self.error(&Call::on("patch", object), failure))
    }

    /// The last lines of a container's log, of its previous instance if asked.
    pub(crate) async fn log(
        &self,
        pod: &ObjectName,
        container: &str,
        previous: bool,
        lines: usize,
    ) -> Result<String, Error> {
        let query =
            format!("container={}&tailLines={lines}&limitBytes={LOG_LIMIT}&previous={previous}", segment(container));
        let call = Call { subresource: "log", ..Call::on("get", pod) };
        let request = Request::get(format!("{}/log?{query}", pod.path())).body(Vec::new());
        let request = request.map_err(|error| self.error(&call, Failure::Broken(error.to_string())))?;
        let text = tokio::time::timeout(CALL_LIMIT, self.client.request_text(request)).await;
        text.map_err(|_| Failure::Late)
            .and_then(|answer| answer.map_err(Failure::from))
            .map_err(|failure| self.error(&call, failure))
    }

    async fn read(&self, request: http::request::Builder) -> Result<Value, Failure> {
        self.send(request, Vec::new(), Resend::Always).await
    }

    async fn write(&self, request: http::request::Builder, body: Vec<u8>) -> Result<Value, Failure> {
        self.send(request, body, Resend::Refused).await
    }

    async fn send(&self, request: http::request::Builder, body: Vec<u8>, resend: Resend) -> Result<Value, Failure> {
        let request = request.body(body).map_err(|error| Failure::Broken(error.to_string()))?;
        tokio::time::timeout(CALL_LIMIT, self.attempts(request, resend)).await.map_err(|_| Failure::Late)?
    }

    async fn attempts(&self, request: Request<Vec<u8>>, resend: Resend) -> Result<Value, Failure> {
        let mut pauses = PAUSES.into_iter().map(Duration::from_millis);
        loop {
            let failure = match self.client.request::<Value>(request.clone()).await {
                Ok(value) => return Ok(value),
                Err(error) => Failure::from(error),
            };
            let Some((asked, pause)) = failure.asked_pause(resend).zip(pauses.next()) else { return Err(failure) };
            tokio::time::sleep(asked.max(pause)).await;
        }
    }

    fn error(&self, call: &Call<'_>, failure: Failure) -> Error {
        let what = call.object.map_or_else(|| format!("{} {}", call.verb, call.resource.plural), ToString::to_string);
        match failure {
            Failure::Status(status) if status.code == 403 && is_authorization(&status) => {
                let rule = RoleRule { verb: refused_verb(&status).unwrap_or(call.verb).to_owned(), ..call.rule() };
                let rule = impersonation_rule(&status, self.acts_as.as_deref()).unwrap_or(rule);
                Error::Forbidden { message: redact(&status.message), rule: Box::new(rule) }
            }
            Failure::Status(status) if status.code == 409 => match call.object {
                Some(object) => conflict(object, &status),
                None => self.plain_error(&what, Failure::Status(status)),
            },
            failure => self.plain_error(&what, failure),
        }
    }

    /// Errors that mean the same for every request.
    pub(crate) fn plain_error(&self, what: &str, failure: Failure) -> Error {
        let server = self.server.clone();
        match failure {
            Failure::Late => Error::Timeout { server, limit: CALL_LIMIT },
            Failure::Broken(reason) => Error::Unreachable { server, reason },
            Failure::Login(reason) => Error::Login(reason),
            Failure::Status(status) => {
                let message = redact(&status.message);
                match status.code {
                    401 => Error::Unauthorized { server, message },
                    _ if is_misspelt(&message) => Error::Rejected { what: what.to_owned(), message },
                    400..=499 if status.code != 429 => Error::Rejected { what: what.to_owned(), message },
                    code => Error::Server { server, code, message },
                }
            }
        }
    }

    /// Judges an error of a watch like one of a request; `None` for those that pass.
    pub(crate) fn watch_error(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        error: kube::Error,
    ) -> Result<String, Error> {
        let call = Call { verb: "watch", resource, subresource: "", object: None, namespace };
        let failure = Failure::from(error);
        let passes = match &failure {
            Failure::Status(status) => !matches!(status.code, 400 | 401 | 403 | 404 | 405),
            Failure::Login(_) => false,
            Failure::Late | Failure::Broken(_) => true,
        };
        let error = self.error(&call, failure);
        if passes { Ok(error.to_string()) } else { Err(error) }
    }
}

impl<'a> Call<'a> {
    fn on(verb: &'a str, object: &'a ObjectName) -> Call<'a> {
        Call {
            verb,
            resource: &object.resource,
            subresource: "",
            object: Some(object),
            namespace: object.namespace.as_deref(),
        }
    }

    fn rule(&self) -> RoleRule {
        let resource = match self.subresource {
            "" => self.resource.plural.clone(),
            subresource => format!("{}/{subresource}", self.resource.plural),
        };
        let namespace = self.namespace.map(str::to_owned);
        RoleRule { verb: self.verb.to_owned(), group: self.resource.group.clone(), resource, namespace, name: None }
    }
}

/// Why a request brought no answer.
pub(crate) enum Failure {
    /// The server's own refusal.
    Status(Box<Status>),
    /// No connection, or it broke.
    Broken(String),
    /// The credentials could not even be made.
    Login(String),
    /// No answer in time.
    Late,
}

impl Failure {
    /// How long a busy server asks to be left alone; `None` if asking again is no use.
    fn asked_pause(&self, resend: Resend) -> Option<Duration> {
        let may_pass = |code: u16| match resend {
            Resend::Always => matches!(code, 429 | 503 | 504),
            Resend::Refused => code == 429,
        };
        match self {
            Failure::Status(status) if may_pass(status.code) => {
                let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
                Some(Duration::from_secs(seconds.into()))
            }
            _ => None,
        }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Failure {
        match error {
            kube::Error::Api(status) => Failure::Status(status),
            kube::Error::Auth(error) => Failure::Login(redact(&error.to_string())),
            kube::Error::Service(error) => match error.downcast_ref::<kube::client::AuthError>() {
                Some(login) => Failure::Login(redact(&login.to_string())),
                None => Failure::Broken(innermost(&*error)),
            },
            other => Failure::Broken(innermost(&other)),
        }
    }
}

/// The last cause of a chain: "Connection refused" says more than "client error".
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    redact(&cause.to_string())
}

/// Admission also answers 403; only the authorizer says "cannot".
fn is_authorization(status: &Status) -> bool {
    status.message.contains(" cannot ")
}

/// `User "x" cannot create resource "deployments" …`: an apply of a new object needs another verb than
/// the one that was sent.
fn refused_verb(status: &Status) -> Option<&str> {
    let (_, rest) = status.message.split_once(" cannot ")?;
    rest.split_once(" resource ")
        .map(|(verb, _)| verb)
        .filter(|verb| verb.bytes().all(|byte| byte.is_ascii_lowercase()))
}

/// Whoever may not act for another lacks a rule about that one, and none about what was asked for.
///
/// Newer servers (1.37 does) say that they tried a narrower right first (`impersonate-on:user-info:get`, KEP-5284), and not
/// who it is about. The right of old goes on to work, and is one rule for all that is done.
fn impersonation_rule(status: &Status, acts_as: Option<&str>) -> Option<RoleRule> {
    if status.message.contains(" cannot impersonate-on:") {
        let user = acts_as?;
        let account = user.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
        let (resource, namespace, name) = match account {
            Some((namespace, name)) => ("serviceaccounts", Some(namespace.to_owned()), name),
            None => ("users", None, user),
        };
        let (resource, verb, name) = (resource.to_owned(), "impersonate".to_owned(), Some(name.to_owned()));
        return Some(RoleRule { namespace, resource, name, verb, ..RoleRule::default() });
    }
    let details = status.details.as_ref().filter(|_| refused_verb(status) == Some("impersonate"))?;
    let name = Some(details.name.clone()).filter(|name| !name.is_empty());
    Some(RoleRule { resource: details.kind.clone(), name, verb: "impersonate".into(), ..RoleRule::default() })
}

/// Servers before 1.25 answer 500 to an apply of fields that the schema does not have.
fn is_misspelt(message: &str) -> bool {
    message.starts_with("failed to create typed patch object")
}

fn conflict(object: &ObjectName, status: &Status) -> Error {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let conflicts =
        ownership::conflicts(causes.map(|cause| (cause.reason.as_str(), cause.field.as_str(), cause.message.as_str())));
    if conflicts.is_empty() {
        Error::Changed { object: object.clone().into(), message: redact(&status.message) }
    } else {
        Error::Conflict { object: object.clone().into(), conflicts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_may_not_act_for_another_is_told_of_that_right() {
        let rule = |message: &str, kind: &str, acts_as: &str| {
            let status = serde_json::json!({"kind": "Status", "code": 403, "message": message,
                "details": {"name": "bob", "kind": kind}});
            let rule = impersonation_rule(&serde_json::from_value(status).unwrap(), Some(acts_as))?;
            Some([rule.namespace.unwrap_or_default(), rule.resource, rule.name.unwrap_or_default(), rule.verb])
        };
        let on = |mode: &str| {
            format!("deployments.apps \"a\" is forbidden: User \"r\" cannot impersonate-on:{mode}:get resource")
        };
        let old = "users \"bob\" is forbidden: User \"r\" cannot impersonate resource \"users\"";
        assert_eq!(rule(old, "users", "bob").unwrap(), ["", "users", "bob", "impersonate"]);
        assert_eq!(rule(&on("user-info"), "deployments", "eve").unwrap(), ["", "users", "eve", "impersonate"]);
        assert_eq!(
            rule(&on("serviceaccount"), "deployments", "system:serviceaccount:ci:bot").unwrap(),
            ["ci", "serviceaccounts", "bot", "impersonate"]
        );
        assert_eq!(rule("User \"r\" cannot get resource \"deployments\"", "deployments", "eve"), None);
    }
}
