//! Whether a token is the provider's, for us, of now, and of this login (OpenID Connect Core §3.1.3.7). Pure.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{CLOCK_SKEW_SECONDS, OidcError};

/// Longest token that is looked at.
const TOKEN_AT_MOST: usize = 64 << 10;
/// Oldest token, by its `iat`, of a login that just ended.
const OLD_SECONDS: i64 = 3600;

/// A provider's keys (RFC 7517).
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct KeySet {
    keys: Vec<Key>,
}

#[derive(Clone, Debug, Deserialize)]
struct Key {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
}

/// What a token has to be.
pub(super) struct Expected<'e> {
    pub(super) issuer: &'e str,
    pub(super) audience: &'e str,
    pub(super) nonce: &'e str,
    /// Seconds since 1970.
    pub(super) now: i64,
}

/// Why a token isn't taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// No key of the set made it: perhaps a newer one did.
    UnknownKey,
    /// Whatever the keys are.
    Bad(OidcError),
}

fn bad<T>(why: &'static str) -> Result<T, Refused> {
    Err(Refused::Bad(OidcError::Token(why)))
}

/// The claims of a token that is all it has to be.
pub(super) fn verify(
    token: &str,
    keys: &KeySet,
    expected: &Expected<'_>,
) -> Result<Map<String, Value>, Refused> {
    let no_token = "it is no signed token";
    if token.len() > TOKEN_AT_MOST {
        return bad("it is too long");
    }
    let Some((signed, signature)) = token.rsplit_once('.') else {
        return bad(no_token);
    };
    let Some((header, claims)) = signed.split_once('.') else {
        return bad(no_token);
    };
    let part = |text: &str| BASE64.decode(text).ok();
    let (Some(header), Some(claims), Some(signature)) =
        (part(header), part(claims), part(signature))
    else {
        return bad(no_token);
    };
    let Ok(header) = serde_json::from_slice::<Header>(&header) else {
        return bad(no_token);
    };
    if header.crit.is_some() {
        return bad("it demands what isn't known here");
    }
    // Of several keys without a name, one may fit.
    let mut any = false;
    let verified = keys.keys.iter().filter(|key| key.fits(&header)).any(|key| {
        any = true;
        key.made(&header.alg, signed.as_bytes(), &signature)
    });
    if !any {
        return Err(Refused::UnknownKey);
    }
    if !verified {
        return bad("its signature is wrong");
    }
    let Ok(Value::Object(claims)) = serde_json::from_slice(&claims) else {
        return bad("its claims are no object");
    };
    check(&claims, expected)?;
    Ok(claims)
}

fn check(claims: &Map<String, Value>, expected: &Expected<'_>) -> Result<(), Refused> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let seconds = |name: &str| {
        let number = claims.get(name)?;
        number
            .as_i64()
            .or_else(|| number.as_f64().map(|seconds| seconds as i64))
    };
    if text("iss") != Some(expected.issuer) {
        return bad("it is of another issuer");
    }
    let several = match claims.get("aud") {
        Some(Value::String(one)) if one == expected.audience => false,
        Some(Value::Array(all)) if all.iter().any(|one| one == expected.audience) => all.len() > 1,
        _ => return bad("it is for somebody else"),
    };
    let party = text("azp");
    if party.is_some_and(|party| party != expected.audience) || (several && party.is_none()) {
        return bad("it is for somebody else");
    }
    let Some(expires) = seconds("exp") else {
        return bad("it never ends");
    };
    if expected.now >= expires.saturating_add(CLOCK_SKEW_SECONDS) {
        return bad("it has expired; are the clocks right?");
    }
    let Some(issued) = seconds("iat") else {
        return bad("it doesn't say of when it is");
    };
    let latest = expected.now.saturating_add(CLOCK_SKEW_SECONDS);
    if issued > latest || seconds("nbf").is_some_and(|from| from > latest) {
        return bad("it is of the future; are the clocks right?");
    }
    if issued < expected.now.saturating_sub(OLD_SECONDS) {
        return bad("it is too old");
    }
    if text("nonce") != Some(expected.nonce) {
        return bad("it is of another login");
    }
    if text("sub").is_none_or(|sub| sub.is_empty() || sub.len() > 255) {
        return bad("it doesn't say who it is about");
    }
    Ok(())
}

impl Key {
    /// Whether the token can be of this key, by what both say.
    fn fits(&self, header: &Header) -> bool {
        let named = header.kid.is_none() || self.kid == header.kid;
        let signs = self.usage.as_deref().is_none_or(|usage| usage == "sig");
        let same = self.alg.as_ref().is_none_or(|alg| *alg == header.alg);
        // Only what a key of this kind can do: never a secret (HS256), never nothing (none).
        let kind = match header.alg.as_str() {
            "RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512" => self.kty == "RSA",
            "ES256" => self.kty == "EC" && self.crv.as_deref() == Some("P-256"),
            "ES384" => self.kty == "EC" && self.crv.as_deref() == Some("P-384"),
            "EdDSA" => self.kty == "OKP" && self.crv.as_deref() == Some("Ed25519"),
            _ => false,
        };
        named && signs && same && kind
    }

    /// Whether this key made the signature.
    fn made(&self, algorithm: &str, signed: &[u8], made: &[u8]) -> bool {
        let part = |text: &Option<String>| BASE64.decode(text.as_ref()?).ok();
        let rsa = match algorithm {
            "RS256" => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
            "RS384" => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
            "RS512" => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
            "PS256" => Some(&signature::RSA_PSS_2048_8192_SHA256),
            "PS384" => Some(&signature::RSA_PSS_2048_8192_SHA384),
            "PS512" => Some(&signature::RSA_PSS_2048_8192_SHA512),
            _ => None,
        };
        if let Some(rsa) = rsa {
            let (Some(n), Some(e)) = (part(&self.n), part(&self.e)) else {
                return false;
            };
            return RsaPublicKeyComponents { n, e }
                .verify(rsa, signed, made)
                .is_ok();
        }
        let Some(x) = part(&self.x) else {
            return false;
        };
        if algorithm == "EdDSA" {
            return UnparsedPublicKey::new(&ED25519, x)
                .verify(signed, made)
                .is_ok();
        }
        let Some(y) = part(&self.y) else {
            return false;
        };
        let point = [&[4], x.as_slice(), y.as_slice()].concat();
        if algorithm == "ES256" {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                .verify(signed, made)
                .is_ok()
        } else {
            UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point)
                .verify(signed, made)
                .is_ok()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::panic,
        reason = "a test that panics has failed"
    )]

    use proptest::prelude::*;
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
    };
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    struct Signer {
        pair: EcdsaKeyPair,
        random: SystemRandom,
    }

    impl Signer {
        fn new() -> Self {
            let random = SystemRandom::new();
            let kind = &ECDSA_P256_SHA256_FIXED_SIGNING;
            let document = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(kind, document.as_ref(), &random).unwrap();
            Self { pair, random }
        }

        fn keys(&self, name: &str) -> KeySet {
            let point = self.pair.public_key().as_ref();
            serde_json::from_value(
                json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": name, "use": "sig",
                "x": BASE64.encode(&point[1..33]), "y": BASE64.encode(&point[33..])}]}),
            )
            .unwrap()
        }

        fn token(&self, header: &Value, claims: &Value) -> String {
            let signed = format!(
                "{}.{}",
                BASE64.encode(header.to_string()),
                BASE64.encode(claims.to_string())
            );
            let made = self.pair.sign(&self.random, signed.as_bytes()).unwrap();
            format!("{signed}.{}", BASE64.encode(made.as_ref()))
        }
    }

    fn claims(changes: &Value) -> Value {
        let mut claims = json!({"iss": "https://id", "aud": "stratus", "sub": "42", "nonce": "n",
            "iat": NOW - 5, "exp": NOW + 600});
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }

    const EXPECTED: Expected<'static> = Expected {
        issuer: "https://id",
        audience: "stratus",
        nonce: "n",
        now: NOW,
    };

    #[test]
    fn a_token_counts_only_if_everything_about_it_is_right() {
        let signer = Signer::new();
        let keys = signer.keys("k");
        let header = json!({"alg": "ES256", "kid": "k"});
        let good = signer.token(&header, &claims(&json!({})));
        assert_eq!(verify(&good, &keys, &EXPECTED).unwrap()["sub"], "42");
        let skewed = claims(&json!({"iat": NOW + 60, "exp": NOW - 60}));
        assert!(verify(&signer.token(&header, &skewed), &keys, &EXPECTED).is_ok());
        for (change, why) in [
            (json!({"iss": "https://other"}), "another issuer"),
            (json!({"aud": "other"}), "somebody else"),
            (json!({"aud": ["stratus", "other"]}), "somebody else"),
            (json!({"azp": "other"}), "somebody else"),
            (json!({"exp": NOW - 600}), "expired"),
            (json!({"exp": null}), "never ends"),
            (json!({"iat": NOW + 600}), "future"),
            (json!({"nbf": NOW + 600}), "future"),
            (json!({"iat": NOW - 86_400}), "too old"),
            (json!({"nonce": "other"}), "another login"),
            (json!({"nonce": null}), "another login"),
            (json!({"sub": ""}), "who it is about"),
        ] {
            let token = signer.token(&header, &claims(&change));
            match verify(&token, &keys, &EXPECTED) {
                Err(Refused::Bad(OidcError::Token(text))) => {
                    assert!(text.contains(why), "{change}: {text}");
                }
                other => panic!("{change}: {other:?}"),
            }
        }
        let both = claims(&json!({"aud": ["stratus", "other"], "azp": "stratus"}));
        assert!(verify(&signer.token(&header, &both), &keys, &EXPECTED).is_ok());
    }

    #[test]
    fn signatures_of_others_and_of_no_kind_are_refused() {
        let (signer, other) = (Signer::new(), Signer::new());
        let keys = signer.keys("k");
        let (header, content) = (json!({"alg": "ES256", "kid": "k"}), claims(&json!({})));
        let forged = other.token(&header, &content);
        assert_eq!(
            verify(&forged, &keys, &EXPECTED),
            Err(Refused::Bad(OidcError::Token("its signature is wrong")))
        );
        let newer = signer.token(&json!({"alg": "ES256", "kid": "new"}), &content);
        assert_eq!(verify(&newer, &keys, &EXPECTED), Err(Refused::UnknownKey));
        for algorithm in ["none", "HS256", "RS256", ""] {
            let token = signer.token(&json!({"alg": algorithm, "kid": "k"}), &content);
            assert_eq!(
                verify(&token, &keys, &EXPECTED),
                Err(Refused::UnknownKey),
                "{algorithm}"
            );
        }
        let good = signer.token(&header, &content);
        let (signed, _) = good.rsplit_once('.').unwrap();
        for token in [
            String::new(),
            "a.b".into(),
            format!("{signed}."),
            format!("{signed}.AAAA"),
            "....".into(),
            "x".repeat(TOKEN_AT_MOST + 1),
        ] {
            assert!(matches!(
                verify(&token, &keys, &EXPECTED),
                Err(Refused::Bad(_))
            ));
        }
        let critical = signer.token(
            &json!({"alg": "ES256", "kid": "k", "crit": ["x"]}),
            &content,
        );
        assert!(matches!(
            verify(&critical, &keys, &EXPECTED),
            Err(Refused::Bad(_))
        ));
    }

    #[test]
    fn edwards_curves_sign_too() {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        let keys: KeySet = serde_json::from_value(json!({"keys": [{"kty": "OKP", "crv": "Ed25519",
            "x": BASE64.encode(pair.public_key().as_ref())}]}))
        .unwrap();
        let header = json!({"alg": "EdDSA"}).to_string();
        let signed = format!(
            "{}.{}",
            BASE64.encode(header),
            BASE64.encode(claims(&json!({})).to_string())
        );
        let made = pair.sign(signed.as_bytes());
        let token = format!("{signed}.{}", BASE64.encode(made.as_ref()));
        assert!(verify(&token, &keys, &EXPECTED).is_ok());
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(token in "[A-Za-z0-9_.-]{0,200}") {
            let keys = KeySet::default();
            prop_assert!(verify(&token, &keys, &EXPECTED).is_err());
        }
    }
}
