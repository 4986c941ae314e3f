// A real OpenID Connect provider for tests: people log in by name, with any password.
// Usage: node provider.mjs PORT REDIRECT_URL KEY_NAME. Says `ready` once it listens.
import { generateKeyPairSync } from 'node:crypto';
import { pathToFileURL } from 'node:url';

const library = `${process.env.PROVIDER_FOLDER}/node_modules/oidc-provider/lib/index.js`;
const { default: Provider } = await import(pathToFileURL(library));

const [port, redirect, keyName] = process.argv.slice(2);
const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const key = { ...privateKey.export({ format: 'jwk' }), kid: keyName, use: 'sig', alg: 'RS256' };
const groups = { alice: ['physics'], root: ['physics', 'admins'], carol: [] };

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [{
    client_id: 'stratus', client_secret: 'open sesame: 100%', redirect_uris: [redirect],
    grant_types: ['authorization_code'], response_types: ['code'],
  }],
  jwks: { keys: [key] },
  cookies: { keys: ['a key of this test'] },
  pkce: { required: () => true, methods: ['S256'] },
  scopes: ['openid', 'profile', 'email'],
  claims: { openid: ['sub'], profile: ['preferred_username', 'given_name', 'family_name', 'groups'], email: ['email', 'email_verified'] },
  async findAccount(_context, id) {
    return {
      accountId: id,
      claims: async () => ({
        sub: `sub-of-${id}`, preferred_username: id, given_name: id, family_name: 'Provided',
        email: `${id}@id.example`, email_verified: true, groups: groups[id] ?? [],
      }),
    };
  },
});
provider.listen(Number(port), '127.0.0.1', () => console.log('ready'));
// It ends with whoever started it.
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
