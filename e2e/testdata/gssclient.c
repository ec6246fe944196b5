/* A SOCKS5 client of RFC 1961 on a real GSSAPI library, for tests.
 *
 *   gssclient HOST PORT SERVICE@HOST LEVEL TARGET-IP TARGET-PORT BYTES [hold]
 *
 * It logs in, connects to an echo server through the proxy, sends so many bytes
 * in messages of every size, and compares what comes back. It prints "level N",
 * and "ok BYTES CHECKSUM" with the FNV-1a of what came back. A refusal of the
 * proxy's is "refused" and exit status 3. With LEVEL "nec" it sends the level 0
 * as one bare byte. With "hold" it prints "half" in the middle, and goes on when
 * it can read a line. */
#include <arpa/inet.h>
#include <gssapi/gssapi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int sock, level;
static gss_ctx_id_t ctx = GSS_C_NO_CONTEXT;

static void fail(const char *what) { fprintf(stderr, "%s\n", what); exit(1); }

static void gssfail(const char *what, OM_uint32 major, OM_uint32 minor) {
	OM_uint32 m, more = 0;
	gss_buffer_desc text;
	fprintf(stderr, "%s:", what);
	gss_display_status(&m, major, GSS_C_GSS_CODE, GSS_C_NO_OID, &more, &text);
	fprintf(stderr, " %.*s;", (int)text.length, (char *)text.value);
	more = 0;
	gss_display_status(&m, minor, GSS_C_MECH_CODE, GSS_C_NO_OID, &more, &text);
	fprintf(stderr, " %.*s\n", (int)text.length, (char *)text.value);
	exit(1);
}

static void put(const void *data, size_t n) {
	const char *p = data;
	while (n > 0) {
		ssize_t w = write(sock, p, n);
		if (w <= 0) fail("write");
		p += w, n -= w;
	}
}

static int get(void *data, size_t n) {
	char *p = data;
	while (n > 0) {
		ssize_t r = read(sock, p, n);
		if (r <= 0) return -1;
		p += r, n -= r;
	}
	return 0;
}

/* putframe writes at once: two writes would wait for each other's ACK. */
static void putframe(int type, const void *token, size_t n) {
	static unsigned char out[4 + 65535];
	out[0] = 1, out[1] = type, out[2] = n >> 8, out[3] = n & 0xff;
	if (n > 65535) fail("too large for a frame");
	memcpy(out + 4, token, n);
	put(out, 4 + n);
}

static unsigned char frame[65536];

static size_t getframe(int type) {
	unsigned char header[4];
	if (get(header, 2)) fail("closed");
	if (header[1] == 0xff) { printf("refused\n"); exit(3); }
	if (header[0] != 1 || header[1] != type || get(header + 2, 2)) fail("not a frame");
	size_t n = header[2] << 8 | header[3];
	if (get(frame, n)) fail("frame cut");
	return n;
}

static void wrapped(int type, const void *data, size_t n, int seal) {
	OM_uint32 major, minor;
	gss_buffer_desc in = {n, (void *)data}, out;
	major = gss_wrap(&minor, ctx, seal, GSS_C_QOP_DEFAULT, &in, NULL, &out);
	if (GSS_ERROR(major)) gssfail("gss_wrap", major, minor);
	putframe(type, out.value, out.length);
	gss_release_buffer(&minor, &out);
}

static gss_buffer_desc unwrapped(int type) {
	OM_uint32 major, minor;
	size_t n = getframe(type);
	gss_buffer_desc in = {n, frame}, out;
	int sealed = 0;
	major = gss_unwrap(&minor, ctx, &in, &out, &sealed, NULL);
	if (major != GSS_S_COMPLETE) gssfail("gss_unwrap", major, minor);
	if (type == 3 && sealed != (level == 2)) fail("another protection than agreed");
	return out;
}

static void say(const void *data, size_t n) {
	if (level == 0) put(data, n);
	else wrapped(3, data, n, level == 2);
}

/* hear reads n bytes, from as many messages as it takes. */
static void hear(unsigned char *data, size_t n) {
	static gss_buffer_desc have;
	static size_t used;
	OM_uint32 minor;
	if (level == 0) { if (get(data, n)) fail("closed"); return; }
	while (n > 0) {
		if (used == have.length) {
			if (have.value) gss_release_buffer(&minor, &have);
			have = unwrapped(3), used = 0;
			continue;
		}
		size_t part = have.length - used < n ? have.length - used : n;
		memcpy(data, (char *)have.value + used, part);
		data += part, used += part, n -= part;
	}
}

static void login(const char *service) {
	OM_uint32 major, minor, flags;
	gss_name_t name;
	gss_buffer_desc text = {strlen(service), (void *)service}, in = GSS_C_EMPTY_BUFFER, out;
	unsigned char hello[3] = {5, 1, 1}, method[2];
	major = gss_import_name(&minor, &text, GSS_C_NT_HOSTBASED_SERVICE, &name);
	if (GSS_ERROR(major)) gssfail("gss_import_name", major, minor);
	put(hello, 3);
	if (get(method, 2) || method[1] != 1) { printf("refused\n"); exit(3); }
	for (;;) {
		major = gss_init_sec_context(&minor, GSS_C_NO_CREDENTIAL, &ctx, name, GSS_C_NO_OID,
			GSS_C_MUTUAL_FLAG | GSS_C_SEQUENCE_FLAG | GSS_C_REPLAY_FLAG | GSS_C_CONF_FLAG | GSS_C_INTEG_FLAG,
			0, NULL, &in, NULL, &out, &flags, NULL);
		if (GSS_ERROR(major)) gssfail("gss_init_sec_context", major, minor);
		if (out.length) putframe(1, out.value, out.length);
		if (major == GSS_S_COMPLETE) return;
		in.length = getframe(1), in.value = frame;
	}
}

/* expected is what stands at a place of the stream. */
static unsigned char expected(size_t at) { return (uint32_t)(at * 2654435761u) >> 13; }

static unsigned char data[65000];
static uint64_t checksum = 14695981039346656037u;

/* back hears n bytes, which begin at a place of the stream. */
static void back(size_t at, size_t n) {
	hear(data, n);
	for (size_t i = 0; i < n; i++) {
		if (data[i] != expected(at + i)) fail("other bytes came back");
		checksum = (checksum ^ data[i]) * 1099511628211u;
	}
}

static void hold(void) {
	char line[8];
	printf("half\n");
	fflush(stdout);
	if (!fgets(line, sizeof line, stdin)) fail("nobody says to go on");
}

/* transfer has one message on its way while it waits for the one before. */
static void transfer(size_t total, int holds) {
	size_t sent = 0, heard = 0, size = 1, before = 0;
	while (heard < total) {
		if (size > total - sent) size = total - sent;
		for (size_t i = 0; i < size; i++) data[i] = expected(sent + i);
		if (size) say(data, size);
		sent += size;
		back(heard, before);
		heard += before;
		before = size;
		size = size * 3 / 2 + 1;
		if (size > sizeof data) size = sizeof data;
		if (holds && heard >= total / 2) hold(), holds = 0;
	}
}

int main(int argc, char **argv) {
	if (argc != 8 && argc != 9) fail("usage");
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
	inet_pton(AF_INET, argv[1], &to.sin_addr);
	sock = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(sock, (void *)&to, sizeof to)) fail("connect");
	login(argv[3]);
	unsigned char asked = atoi(argv[4]);
	if (strcmp(argv[4], "nec") == 0) {
		asked = 0;
		putframe(2, &asked, 1);
		if (getframe(2) != 1) fail("not NEC's answer");
		level = frame[0];
	} else {
		wrapped(2, &asked, 1, 0);
		gss_buffer_desc granted = unwrapped(2);
		if (granted.length != 1) fail("level");
		level = *(unsigned char *)granted.value;
	}
	printf("level %d\n", level);
	unsigned char request[10] = {5, 1, 0, 1}, reply[10];
	inet_pton(AF_INET, argv[5], request + 4);
	request[8] = atoi(argv[6]) >> 8, request[9] = atoi(argv[6]);
	say(request, 10);
	hear(reply, 10);
	if (reply[1]) { printf("reply %d\n", reply[1]); exit(4); }
	size_t total = atol(argv[7]);
	transfer(total, argc == 9);
	shutdown(sock, SHUT_WR);
	printf("ok %zu %016llx\n", total, (unsigned long long)checksum);
	return 0;
}
