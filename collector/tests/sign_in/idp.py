"""A SAML identity provider (pysaml2, which signs with xmlsec1) on a loopback port of its own. Whoever types a name
is that person, and stays signed in by a cookie until they are to be asked anew (ForceAuthn). What it knows of the
collector it takes from the collector's own metadata. Says where its own is on standard output, a line of JSON.

POST /steer with {"groups": {NAME: [...]}}, {"authenticated": SECONDS} (when somebody has signed in, by its word) or
{"age": SECONDS} (whoever is signed in has been so for so much longer) changes what it does from then on.

python idp.py DIRECTORY SP_METADATA_URL PEOPLE WHAT_IS_SIGNED
"""

import base64
import datetime
import html
import json
import sys
import threading
import time
import urllib.request
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from saml2 import BINDING_HTTP_REDIRECT
from saml2.authn_context import PASSWORD
from saml2.config import IdPConfig
from saml2.metadata import entity_descriptor
from saml2.saml import NAME_FORMAT_UNSPECIFIED, NAMEID_FORMAT_PERSISTENT, NameID
from saml2.server import Server
from saml2.xmldsig import DIGEST_SHA256, SIG_RSA_SHA256

directory, sp_metadata, people, signs = sys.argv[1:]
groups = json.loads(people)
steered = {"authenticated": None, "age": 0, "since": 0}


def make_key():
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "idp")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    with open(f"{directory}/idp.key", "wb") as file:
        file.write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL,
                                     serialization.NoEncryption()))
    with open(f"{directory}/idp.crt", "wb") as file:
        file.write(certificate.public_bytes(serialization.Encoding.PEM))


def config(base, metadata):
    return {
        "entityid": f"{base}/idp",
        "service": {"idp": {
            "name": "idp",
            "endpoints": {"single_sign_on_service": [(f"{base}/sso", BINDING_HTTP_REDIRECT)]},
            "policy": {"default": {"lifetime": {"minutes": 5}, "attribute_restrictions": None,
                                   "name_form": NAME_FORMAT_UNSPECIFIED}},
            "want_authn_requests_signed": False,
        }},
        "key_file": f"{directory}/idp.key",
        "cert_file": f"{directory}/idp.crt",
        "metadata": metadata,
        "xmlsec_binary": "/usr/bin/xmlsec1",
    }


class Handler(BaseHTTPRequestHandler):
    idp = None
    lock = threading.Lock()

    def page(self, text, cookie=None):
        body = f"<!doctype html><title>idp</title>{text}".encode()
        self.send_response(200)
        if cookie:
            self.send_header("Set-Cookie", f"sso={cookie}; Path=/")
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        query = parse_qs(urlsplit(self.path).query)
        if "SAMLRequest" not in query:
            return self.page("nothing")
        name, _, since = self.headers.get("Cookie", "").partition("sso=")[2].partition("!")
        if since and "ForceAuthn" not in self.asked(query["SAMLRequest"][0]):
            return self.answer(name, int(since), query)
        fields = "".join(f'<input type="hidden" name="{name}" value="{html.escape(query[name][0])}">'
                         for name in ("SAMLRequest", "RelayState"))
        self.page(f'<form method="post" action="/sso">{fields}<input name="login"><button type="submit">Sign in</button></form>')

    @staticmethod
    def asked(request):
        return zlib.decompress(base64.b64decode(request), -15).decode()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/steer":
            to = json.loads(body)
            groups.update(to.pop("groups", {}))
            steered.update(to, **({"since": int(time.time())} if "age" in to else {}))
            if "age" in to:
                # Whoever signs in from now on does so in another second.
                time.sleep(1.05 - time.time() % 1)
            return self.page("done")
        form = parse_qs(body)
        self.answer(form["login"][0], int(time.time()), form)

    def answer(self, name, since, form):
        cookie = f"{name}!{since}"
        if since <= steered["since"]:
            since -= steered["age"]
        since = steered["authenticated"] or since
        attributes = {"mail": [f"{name}@example.com"]}
        if groups.get(name, []) is not None:
            attributes["groups"] = groups.get(name, [])
        with Handler.lock:
            if Handler.idp is None:
                with urllib.request.urlopen(sp_metadata) as answer, open(f"{directory}/sp.xml", "wb") as file:
                    file.write(answer.read())
                Handler.idp = Server(config=IdPConfig().load(config(base, {"local": [f"{directory}/sp.xml"]})))
            idp = Handler.idp
            request = idp.parse_authn_request(form["SAMLRequest"][0], BINDING_HTTP_REDIRECT)
            args = idp.response_args(request.message)
            args.pop("name_id_policy", None)
            response = idp.create_authn_response(
                attributes,
                userid=name,
                name_id=NameID(format=NAMEID_FORMAT_PERSISTENT, text=f"id-of-{name}"),
                authn={"class_ref": PASSWORD, "authn_auth": base, "authn_instant": since},
                sign_response=signs in ("response", "both"),
                sign_assertion=signs in ("assertion", "both"),
                sign_alg=SIG_RSA_SHA256,
                digest_alg=DIGEST_SHA256,
                **args,
            )
        encoded = base64.b64encode(str(response).encode()).decode()
        place = html.escape(args["destination"])
        relay = html.escape(form["RelayState"][0])
        self.page(f'<form method="post" action="{place}"><input type="hidden" name="SAMLResponse" value="{encoded}">'
                  f'<input type="hidden" name="RelayState" value="{relay}"></form>'
                  "<script>document.forms[0].submit()</script>", cookie)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
base = f"http://127.0.0.1:{server.server_port}"
make_key()
with open(f"{directory}/idp.xml", "w") as file:
    file.write(str(entity_descriptor(IdPConfig().load(config(base, {})))))
print(json.dumps({"metadata": f"{directory}/idp.xml", "base": base}), flush=True)
server.serve_forever()
