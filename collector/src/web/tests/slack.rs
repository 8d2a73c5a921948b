//! People who decide in Slack.

use axum::http::header::CONTENT_TYPE;
use hmac::{Hmac, KeyInit as _, Mac as _};
use interlock_shipping::v1::ApprovalRequest;
use sha2::Sha256;

use super::*;
use crate::approvals::ask::tests::{Asked, Fake, SIGNING, request};
use crate::approvals::ask::{Approvals, slack_apps};
use crate::store::approval_id;

/// A collector with an app of Slack, and Slack.
struct Chat {
    site: Site,
    slack: Fake,
    host: SampleHost,
    _secrets: TempDir,
}

impl Chat {
    async fn new() -> Self {
        Self::with("").await
    }

    /// With more in the app's configuration.
    async fn with(more: &str) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let (slack, secrets) = (Fake::new(), tempfile::tempdir().unwrap());
        let secret = |name: &str, text: &str| {
            let path = secrets.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            path.display().to_string()
        };
        let (token, signing) = (secret("token", "xoxb-7"), secret("signing", SIGNING));
        let approvals: Approvals = serde_saphyr::from_str(&format!(
            "{{ask: [{{kind: slack, name: chat, channel: C0123456789, team: T1, app: A1, token: {token}, signing_secret: {signing}, \
             api: 'http://{}'{more}}}]}}",
            slack.address
        ))
        .unwrap();
        let config = Config {
            slack: slack_apps(&approvals).unwrap(),
            url: "https://collector.example".into(),
            ..Config::default()
        };
        let site = Site::with(config).await;
        let host = SampleHost::enrol(&site.intake.store, "runner-3", 1).await.unwrap();
        Self { site, slack, host, _secrets: secrets }
    }

    async fn take(&self, told: &ApprovalRequest) -> String {
        let mut write = self.site.intake.store.write().await.unwrap();
        assert!(write.take_approval(&self.host.id, told).await.unwrap());
        write.commit().await.unwrap();
        approval_id(&self.host.id, &told.request, &told.digest)
    }

    /// An account in these groups.
    async fn member(&self, name: &str, groups: &[&str]) {
        self.site.account(name, Role::Viewer).await;
        let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        let mut write = self.site.intake.store.write().await.unwrap();
        write.set_groups(name, &groups).await.unwrap();
        write.commit().await.unwrap();
    }

    /// What Slack sends, signed with `secret` at `at`, seconds.
    async fn sent(&self, payload: &Value, secret: &str, at: i64) -> StatusCode {
        let (body, signed) = signed(payload, secret, at);
        self.raw(&body, &at.to_string(), &signed).await
    }

    async fn raw(&self, body: &str, at: &str, signature: &str) -> StatusCode {
        let request = self
            .site
            .request(&Method::POST, "/hooks/slack", &Caller::default())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header("x-slack-request-timestamp", at)
            .header("x-slack-signature", signature);
        self.site.ask(request.body(Body::from(body.to_owned())).unwrap()).await.status
    }

    async fn slack_sends(&self, payload: &Value) {
        assert_eq!(self.sent(payload, SIGNING, seconds()).await, StatusCode::OK);
    }

    /// Somebody clicks; what Slack is asked for next.
    async fn clicks(&self, person: &str, button: &str, id: &str) -> Asked {
        let before = self.slack.asked().len();
        self.slack_sends(&click(person, button, id)).await;
        self.slack.until(before + 1).await.pop().unwrap()
    }

    /// Somebody links their user in Slack to an account.
    async fn links(&self, person: &str, account: &str, id: &str) {
        let reply = self.confirms(&self.clicks(person, "approve", id).await, account).await;
        assert_eq!(reply.location(), "/account?done=linked", "{}", reply.text);
    }

    /// Somebody opens the link that was given in Slack, and types the code.
    async fn confirms(&self, asked: &Asked, account: &str) -> Reply {
        let browser = self.fresh(account).await;
        let path = format!("/account/link/{}", token(asked));
        let code = code(asked);
        self.site.post(&path, &browser, &[("code", code.as_str())]).await
    }

    /// A browser that has signed in just now.
    async fn fresh(&self, account: &str) -> Caller {
        let token = super::super::secret().unwrap();
        let mut write = self.site.intake.store.write().await.unwrap();
        let new = NewSignIn {
            token_sha256: &sha256(&token),
            user: account,
            expires_ns: now_ns() + 3_600_000_000_000,
            address: "127.0.0.1",
            user_agent: "test",
            authenticated_ns: now_ns(),
        };
        write.add_sign_in(&new).await.unwrap();
        write.commit().await.unwrap();
        Caller { session: Some(token), ..Caller::default() }
    }

    async fn votes(&self, id: &str) -> Vec<(String, bool, String)> {
        let votes = self.site.intake.store.approval_votes(id).await.unwrap();
        votes.into_iter().map(|vote| (vote.account, vote.approve, vote.via)).collect()
    }
}

/// A body of Slack's, and its signature.
fn signed(payload: &Value, secret: &str, at: i64) -> (String, String) {
    let body =
        form_urlencoded::Serializer::new(String::new()).append_pair("payload", &payload.to_string()).finish();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("v0:{at}:{body}").as_bytes());
    let signed = format!("v0={}", interlock_recording::hex(&mac.finalize().into_bytes()));
    (body, signed)
}

fn seconds() -> i64 {
    now_ns() / 1_000_000_000
}

/// A click; each has another trigger, so that none is a repetition.
fn click(person: &str, button: &str, id: &str) -> Value {
    serde_json::json!({
        "type": "block_actions", "api_app_id": "A1", "team": {"id": "T1"}, "user": {"id": person, "username": "<b>al\u{202e}ice", "team_id": "T1"},
        "trigger_id": super::super::secret().unwrap(), "channel": {"id": "C0123456789"},
        "actions": [{"action_id": button, "value": id}],
    })
}

/// The token in the link that somebody is given.
fn token(asked: &Asked) -> String {
    assert_eq!(asked.path, "/chat.postEphemeral");
    let text = asked.json().to_string();
    let rest =
        text.split("https://collector.example/account/link/").nth(1).unwrap_or_else(|| panic!("{text}"));
    rest.split('"').next().unwrap().to_owned()
}

/// The code that stands with the link.
fn code(asked: &Asked) -> String {
    whisper(asked).split("the code ").nth(1).unwrap().chars().take(6).collect()
}

/// What somebody is told, that nobody else sees.
fn whisper(asked: &Asked) -> String {
    assert_eq!(asked.path, "/chat.postEphemeral");
    asked.json()["blocks"][0]["text"]["text"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_slack_did_not_sign_just_now_is_refused() {
    let chat = Chat::new().await;
    let id = chat.take(&request("aaaaaaaa")).await;
    let payload = click("U1", "approve", &id);
    for (secret, at) in [("another", seconds()), (SIGNING, seconds() - 301), (SIGNING, seconds() + 310)] {
        assert_eq!(chat.sent(&payload, secret, at).await, StatusCode::UNAUTHORIZED);
    }
    for (at, signature) in [("", ""), ("now", "v0=00"), ("1", "v0=")] {
        assert_eq!(chat.raw("payload=%7B%7D", at, signature).await, StatusCode::UNAUTHORIZED);
    }
    // Once, and not again.
    let at = seconds();
    assert_eq!(chat.sent(&payload, SIGNING, at).await, StatusCode::OK);
    assert_eq!(chat.sent(&payload, SIGNING, at).await, StatusCode::UNAUTHORIZED);
    // Nor written otherwise.
    let (body, signed) = signed(&payload, SIGNING, at);
    assert_eq!(
        chat.raw(&body, &at.to_string(), &signed.to_uppercase().replace("V0", "v0")).await,
        StatusCode::UNAUTHORIZED
    );
    chat.slack.until(1).await;
    // Signed, and nonsense.
    assert_eq!(chat.sent(&Value::Null, SIGNING, seconds()).await, StatusCode::OK);
    let long = "x".repeat(300 << 10);
    assert_eq!(chat.raw(&long, &seconds().to_string(), "v0=00").await, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(chat.votes(&id).await.is_empty());
    // A collector that has no app takes nothing.
    let without = Site::new().await;
    let request = without.request(&Method::POST, "/hooks/slack", &Caller::default());
    assert_eq!(without.ask(request.body(Body::empty()).unwrap()).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn only_who_has_confirmed_an_account_decides_and_as_that_account() {
    let chat = Chat::new().await;
    let id = chat.take(&request("aaaaaaaa")).await;
    chat.member("alice", &["dba"]).await;
    chat.member("mallory", &[]).await;
    let asked = chat.clicks("U1", "approve", &id).await;
    let path = format!("/account/link/{}", token(&asked));
    assert!(chat.votes(&id).await.is_empty());

    // Signed in not long ago.
    assert!(chat.site.get(&path, &Caller::default()).await.location().starts_with("/sign-in?back="));
    let stale = chat.site.browser("alice").await;
    for reply in [chat.site.get(&path, &stale).await, chat.site.post(&path, &stale, &[]).await] {
        assert!(reply.location().starts_with("/account/again?back=%2Faccount%2Flink%2F"), "{}", reply.text);
    }
    let alice = chat.fresh("alice").await;
    let page = chat.site.get(&path, &alice).await.text;
    assert!(page.contains("<strong><bdi>&#60;b&#62;al\\u{202e}ice</bdi></strong>"), "{page}");
    let code = code(&asked);
    let typed = [("code", code.as_str())];
    assert_eq!(chat.site.post(&path, &alice, &typed).await.location(), "/account?done=linked");
    // Once; nor by somebody else, nor with a token that was replaced.
    let mallory = chat.fresh("mallory").await;
    for caller in [&alice, &mallory] {
        assert_eq!(chat.site.post(&path, caller, &typed).await.status, StatusCode::NOT_FOUND);
        assert_eq!(chat.site.get(&path, caller).await.status, StatusCode::NOT_FOUND);
    }
    let first = chat.clicks("U2", "approve", &id).await;
    let second = chat.clicks("U2", "approve", &id).await;
    assert_eq!(chat.confirms(&first, "alice").await.status, StatusCode::NOT_FOUND);
    assert_eq!(chat.confirms(&second, "mallory").await.location(), "/account?done=linked");
    // Another user's link is no second one for an account, whoever sent it to its owner.
    let phished = chat.confirms(&chat.clicks("U6", "approve", &id).await, "alice").await;
    assert_eq!(phished.status, StatusCode::CONFLICT);
    assert!(phished.text.contains("linked to another user"), "{}", phished.text);
    // Without the code that stands with it in Slack a link is none, and it can be tried once.
    chat.member("carl", &["dba"]).await;
    let asked = chat.clicks("U7", "approve", &id).await;
    let carl = chat.fresh("carl").await;
    let path = format!("/account/link/{}", token(&asked));
    assert_eq!(chat.site.post(&path, &carl, &[("code", "")]).await.status, StatusCode::CONFLICT);
    assert_eq!(chat.confirms(&asked, "carl").await.status, StatusCode::NOT_FOUND);

    // Mallory is in none of the groups, whatever the button says.
    for button in ["approve", "deny"] {
        let said = whisper(&chat.clicks("U2", button, &id).await);
        assert!(said.contains("members of dba"), "{said}");
    }
    assert!(chat.votes(&id).await.is_empty());
    let said = whisper(&chat.clicks("U1", "approve", &id).await);
    assert!(said.contains("has not answered yet"), "{said}");
    assert_eq!(chat.votes(&id).await, [("alice".to_owned(), true, "slack".to_owned())]);
    let said = whisper(&chat.clicks("U1", "approve", &id).await);
    assert!(said.contains("already"), "{said}");
    assert!(chat.site.trail().await.contains(&(
        "alice via slack".into(),
        "approval.approve".into(),
        id.clone()
    )));

    // Unlinked, it counts no longer.
    let shown = chat.site.get("/account", &alice).await.text;
    assert!(shown.contains("<code>U1</code> of <code>T1</code>"), "{shown}");
    let fields = [("chat", "slack"), ("app", "A1"), ("team", "T1"), ("person", "U1")];
    // It is for its own account alone.
    let other = chat.site.post("/account/links/end", &mallory, &fields).await;
    assert_eq!(other.status, StatusCode::NOT_FOUND);
    let ended = chat.site.post("/account/links/end", &alice, &fields).await;
    assert_eq!(ended.location(), "/account?done=unlinked");
    // Its owner sees what was done.
    let shown = chat.site.get("/account", &alice).await.text;
    for done in [": linked <bdi>slack: ", ": unlinked <bdi>slack: U1 in T1"] {
        assert!(shown.contains(done), "{done}: {shown}");
    }
    token(&chat.clicks("U1", "deny", &id).await);
}

#[tokio::test]
async fn who_refuses_says_why_and_what_asks_for_more_leads_to_the_page() {
    let chat = Chat::new().await;
    let id = chat.take(&request("aaaaaaaa")).await;
    chat.member("alice", &["dba"]).await;
    chat.member("carol", &["dba"]).await;
    chat.links("U1", "alice", &id).await;
    chat.links("U3", "carol", &id).await;

    let modal = chat.clicks("U1", "deny", &id).await;
    assert_eq!(modal.path, "/views.open");
    let view = modal.json()["view"].clone();
    let submit = |person: &str, reason: &str| {
        serde_json::json!({
            "type": "view_submission", "api_app_id": "A1", "team": {"id": "T1"}, "user": {"id": person, "team_id": "T1"},
            "view": {
                "callback_id": view["callback_id"], "private_metadata": view["private_metadata"],
                "state": {"values": {"why": {"reason": {"value": reason}}}},
            },
        })
    };
    let before = chat.slack.asked().len();
    chat.slack_sends(&submit("U1", "  ")).await;
    let said = whisper(&chat.slack.until(before + 1).await[before]);
    assert!(said.contains("Say why"), "{said}");
    // Another's modal is no right.
    chat.slack_sends(&submit("U9", "because")).await;
    token(&chat.slack.until(before + 2).await[before + 1]);
    chat.slack_sends(&submit("U1", "not today\u{202e}")).await;
    chat.slack.until(before + 3).await;
    assert_eq!(chat.votes(&id).await, [("alice".to_owned(), false, "slack".to_owned())]);

    // Carol signed in on the host to ask for it.
    let said = whisper(&chat.clicks("U3", "approve", &id).await);
    assert!(said.contains("own request"), "{said}");

    let fresh = ApprovalRequest { fresh_seconds: 900, ..request("bbbbbbbb") };
    let fresh = chat.take(&fresh).await;
    let asked = chat.clicks("U1", "approve", &fresh).await;
    assert!(whisper(&asked).contains("sign in again"), "{asked:?}");
    assert!(asked.json().to_string().contains(&format!("https://collector.example/approvals/{fresh}")));
    let why = ApprovalRequest { reason_required: true, ..request("cccccccc") };
    let why = chat.take(&why).await;
    assert_eq!(chat.clicks("U1", "approve", &why).await.path, "/views.open");
    let shown = ApprovalRequest { collector: "show".into(), ..request("dddddddd") };
    let shown = chat.take(&shown).await;
    assert!(whisper(&chat.clicks("U1", "approve", &shown).await).contains("takes no approvals"));
    // What Slack does not show whole is approved on the page alone, whatever button a message has; refused anywhere.
    let runs = ApprovalRequest { runs: vec!["DROP TABLE customers".into()], ..request("eeeeeeee") };
    let runs = chat.take(&runs).await;
    assert!(whisper(&chat.clicks("U1", "approve", &runs).await).contains("does not show all"));
    assert_eq!(chat.clicks("U1", "deny", &runs).await.path, "/views.open");
    let redacted = chat.take(&ApprovalRequest { redacted: true, ..request("ffffffff") }).await;
    assert!(whisper(&chat.clicks("U1", "approve", &redacted).await).contains("does not show all"));
    for id in [&fresh, &why, &shown, &runs, &redacted] {
        assert!(chat.votes(id).await.is_empty());
    }
    // A disabled account, and one whose password was reset, decide nothing.
    chat.site.account("boss", Role::Admin).await;
    let admin = chat.fresh("boss").await;
    let fields = [("role", "viewer")];
    let reply = chat.site.post("/admin/users/alice", &admin, &fields).await;
    assert_eq!(reply.location(), "/admin/users?done=user-changed", "{}", reply.text);
    token(&chat.clicks("U1", "approve", &why).await);
    assert!(chat.votes(&why).await.is_empty());
}

#[tokio::test]
async fn one_app_speaks_for_its_own_workspace_and_groups_alone() {
    let chat = Chat::with(", groups: [dba]").await;
    let id = chat.take(&request("aaaaaaaa")).await;
    let mut network = request("bbbbbbbb");
    network.quorums[0].groups = vec!["network".into()];
    let network = chat.take(&network).await;
    chat.member("alice", &["dba", "network"]).await;
    chat.links("U1", "alice", &id).await;
    // Signed with its secret, for another workspace or app.
    for (path, value) in [("/team/id", "T2"), ("/api_app_id", "A2")] {
        let mut payload = click("U1", "approve", &id);
        *payload.pointer_mut(path).unwrap() = value.into();
        if path == "/team/id" {
            payload["user"]["team_id"] = value.into();
        }
        assert_eq!(chat.sent(&payload, SIGNING, seconds()).await, StatusCode::UNAUTHORIZED, "{path}");
    }
    let said = whisper(&chat.clicks("U1", "approve", &network).await);
    assert!(said.contains("Nobody is asked about this request here"), "{said}");
    for id in [&id, &network] {
        assert!(chat.votes(id).await.is_empty());
    }
    // A link that has ended is none.
    let store = &chat.site.intake.store;
    let person = crate::store::Person {
        chat: "slack".into(),
        app: "A1".into(),
        team: "T1".into(),
        person: "U8".into(),
        name: String::new(),
    };
    chat.member("bob", &["dba"]).await;
    for (expires_ns, linked) in [(now_ns() - 1, false), (now_ns() + 3_600_000_000_000, true)] {
        let mut write = store.write().await.unwrap();
        write.add_chat_link_token("token", "code", &person, now_ns() + 3_600_000_000_000).await.unwrap();
        let done = write.link_chat("token", "code", "bob", expires_ns).await.unwrap();
        assert_eq!(done, crate::store::Linked::Done(person.clone()));
        write.commit().await.unwrap();
        assert_eq!(store.chat_account("slack", "A1", "T1", "U8").await.unwrap().is_some(), linked);
        assert_eq!(store.chat_links("bob").await.unwrap().len(), usize::from(linked));
    }
}

/// Somebody chooses from a menu, and confirms that in Slack.
fn chooses(person: &str, choice: &str, id: &str) -> Value {
    let mut payload = click(person, "cover", id);
    payload["actions"] = serde_json::json!([{
        "action_id": "cover", "type": "static_select", "selected_option": {"value": format!("{choice}:{id}")},
    }]);
    payload
}

#[tokio::test]
async fn more_than_one_command_is_approved_where_the_rules_let_it() {
    let chat = Chat::with(", groups: [dba]").await;
    let scopes = |scopes: &[&str]| scopes.iter().map(|scope| (*scope).to_owned()).collect::<Vec<_>>();
    let told = ApprovalRequest {
        scopes: scopes(&["once", "shape", "session"]),
        shape_for_seconds: 1800,
        ..request("aaaaaaaa")
    };
    let id = chat.take(&told).await;
    for name in ["alice", "anna", "carol"] {
        chat.member(name, &["dba"]).await;
    }
    chat.member("mallory", &[]).await;
    for (person, name) in [("U1", "alice"), ("U2", "anna"), ("U3", "carol"), ("U4", "mallory")] {
        chat.links(person, name, &id).await;
    }
    let says = async |payload: &Value| {
        let before = chat.slack.asked().len();
        chat.slack_sends(payload).await;
        chat.slack.until(before + 1).await.pop().unwrap()
    };
    // Wrongly signed, too old, and twice.
    let payload = chooses("U1", "shape-15", &id);
    for (secret, at) in [("another", seconds()), (SIGNING, seconds() - 301)] {
        assert_eq!(chat.sent(&payload, secret, at).await, StatusCode::UNAUTHORIZED);
    }
    // Nobody's account, who asks, who is in no group.
    token(&says(&chooses("U9", "session", &id)).await);
    assert!(whisper(&says(&chooses("U3", "session", &id)).await).contains("own request"));
    assert!(whisper(&says(&chooses("U4", "session", &id)).await).contains("members of dba"));
    // For longer than the rules let it be.
    assert!(whisper(&says(&chooses("U1", "shape-31", &id)).await).contains("not for so long"));
    assert!(chat.votes(&id).await.is_empty());
    let at = seconds();
    let before = chat.slack.asked().len();
    assert_eq!(chat.sent(&payload, SIGNING, at).await, StatusCode::OK);
    assert_eq!(chat.sent(&payload, SIGNING, at).await, StatusCode::UNAUTHORIZED);
    chat.slack.until(before + 1).await;
    whisper(&says(&chooses("U2", "session", &id)).await);
    let store = &chat.site.intake.store;
    let given: Vec<(String, String, i64)> = store
        .approval_votes(&id)
        .await
        .unwrap()
        .into_iter()
        .map(|vote| (vote.account, vote.scope, vote.seconds))
        .collect();
    assert_eq!(
        given,
        [("alice".into(), "shape".into(), 900), ("anna".to_owned(), "session".to_owned(), 0)],
        "for fifteen minutes, and for the session"
    );
    // Whatever a message offers: another rule's scopes, what is not shown whole, what asks for a fresh sign-in.
    let once = chat.take(&request("bbbbbbbb")).await;
    let cut = ApprovalRequest {
        request: "cccccccc".into(),
        runs: vec!["DROP TABLE customers".into()],
        ..told.clone()
    };
    let cut = chat.take(&cut).await;
    let fresh = ApprovalRequest { request: "dddddddd".into(), fresh_seconds: 600, ..told.clone() };
    let fresh = chat.take(&fresh).await;
    for (id, choice, said) in [
        (&once, "shape-5", "does not let this be approved so"),
        (&once, "session", "does not let this be approved so"),
        (&cut, "session", "does not show all"),
        (&cut, "shape-5", "does not show all"),
        (&fresh, "session", "sign in again"),
    ] {
        let told = whisper(&says(&chooses("U1", choice, id)).await);
        assert!(told.contains(said), "{choice}: {told}");
        assert!(chat.votes(id).await.is_empty());
    }
    // Where the rule asks for a reason, what was chosen comes back with it, and can have been altered on the way.
    let why = ApprovalRequest { request: "eeeeeeee".into(), reason_required: true, ..told };
    let why = chat.take(&why).await;
    let modal = says(&chooses("U1", "shape-5", &why)).await;
    assert_eq!(modal.path, "/views.open");
    let view = modal.json()["view"].clone();
    assert!(view["blocks"][0].to_string().contains("Approve for 5 min"), "{view}");
    let submit = |metadata: &str| {
        serde_json::json!({
            "type": "view_submission", "api_app_id": "A1", "team": {"id": "T1"}, "user": {"id": "U1", "team_id": "T1"},
            "view": {
                "callback_id": "decide", "private_metadata": metadata,
                "state": {"values": {"why": {"reason": {"value": "release day"}}}},
            },
        })
    };
    let metadata = view["private_metadata"].as_str().unwrap();
    let said = whisper(&says(&submit(&metadata.replace("shape-5", "shape-1440"))).await);
    assert!(said.contains("not for so long"), "{said}");
    whisper(&says(&submit(metadata)).await);
    let votes = store.approval_votes(&why).await.unwrap();
    assert_eq!(
        (votes[0].scope.as_str(), votes[0].seconds, votes[0].reason.as_str()),
        ("shape", 300, "release day")
    );
}

#[tokio::test]
async fn an_administrator_ends_links_and_makes_none() {
    let chat = Chat::new().await;
    let id = chat.take(&request("aaaaaaaa")).await;
    chat.member("alice", &["dba"]).await;
    chat.member("bob", &["dba"]).await;
    chat.links("U1", "alice", &id).await;
    chat.links("U2", "bob", &id).await;
    chat.site.account("boss", Role::Admin).await;
    let boss = chat.site.program_for("boss", Role::Admin, "administer").await;
    let shown = chat.site.get("/api/v1/users/alice/links", &boss).await;
    let links = shown.json();
    assert_eq!((&links["items"][0]["person"], &links["items"][0]["team"]), (&"U1".into(), &"T1".into()));
    assert_eq!(links["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(chat.site.get("/api/v1/users/nobody/links", &boss).await.status, StatusCode::NOT_FOUND);
    let path = "/api/v1/users/alice/links/slack/A1/T1/U1";
    // Another's account does not, by its browser or its token; nor does anybody make one.
    let bob = chat.fresh("bob").await;
    assert_eq!(chat.site.send(Method::DELETE, path, &bob, "").await.status, StatusCode::FORBIDDEN);
    for method in [Method::POST, Method::PUT, Method::PATCH] {
        let reply = chat.site.send(method, path, &boss, "{}").await;
        assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED, "{}", reply.text);
    }
    // Of another account's user there is none.
    let wrong = chat.site.send(Method::DELETE, "/api/v1/users/alice/links/slack/A1/T1/U2", &boss, "").await;
    assert_eq!(wrong.status, StatusCode::NOT_FOUND);
    let ended = chat.site.send(Method::DELETE, path, &boss, "").await;
    assert_eq!(ended.status, StatusCode::NO_CONTENT, "{}", ended.text);
    assert_eq!(chat.site.send(Method::DELETE, path, &boss, "").await.status, StatusCode::NOT_FOUND);
    token(&chat.clicks("U1", "deny", &id).await);
    assert_eq!(chat.clicks("U2", "deny", &id).await.path, "/views.open", "bob's is there still");
    // Its owner sees that.
    let alice = chat.fresh("alice").await;
    let account = chat.site.get("/account", &alice).await.text;
    assert!(account.contains(": unlinked <bdi>slack: U1 in T1"), "{account}");
    let trail = chat.site.trail().await;
    assert!(
        trail
            .iter()
            .any(|(who, what, of)| who.starts_with("boss") && what == "account.unlink" && of == "alice")
    );
}
