// Tunnels of Node's HTTP/2 client through a proxy: node tunnels.js CASE PROXY CA TARGET.
// It prints what it sees, and "closed" at the end.
const http2 = require('http2');
const fs = require('fs');
const [, , what, proxy, ca, target] = process.argv;

const client = http2.connect('https://' + proxy, { ca: fs.readFileSync(ca), servername: 'localhost' });
client.on('error', (e) => console.log('connection:', e.code));
const tunnel = client.request({ ':method': 'CONNECT', ':authority': target }, { endStream: false });
let text = '';
tunnel.setEncoding('utf8');
tunnel.on('response', (h) => {
  console.log('status', h[':status']);
  if (what === 'clientFirst') tunnel.end('quiet');
  if (what === 'cancel' || what === 'destroy') tunnel.write('hello');
});
tunnel.on('data', (d) => {
  text += d;
  if (what === 'cancel') tunnel.close(http2.constants.NGHTTP2_CANCEL);
  if (what === 'destroy') tunnel.destroy(new Error('enough'));
});
tunnel.on('end', () => {
  console.log('end', text);
  // The destination has said all; what we still send must reach it.
  if (what === 'serverFirst') setTimeout(() => tunnel.end('late'), 100);
});
tunnel.on('error', (e) => console.log('tunnel:', e.code || e.message));
tunnel.on('close', () => {
  console.log('closed', tunnel.rstCode);
  client.close();
});
