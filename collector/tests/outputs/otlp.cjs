// A receiver of OTLP logs: prints its address, then each log record that comes as a line of JSON.
const {MockOtlpServer} = require('@elastic/mockotlpserver');

// BigInt and bytes are no JSON.
const plain = (_, value) =>
    typeof value === 'bigint' ? value.toString() : value?.type === 'Buffer' ? value.data : value;

const server = new MockOtlpServer({
    logLevel: 'fatal',
    services: ['http'],
    httpHostname: '127.0.0.1',
    httpPort: Number(process.argv[2]),
    onLogs: (logs) => {
        for (const resource of logs.resourceLogs) {
            for (const scope of resource.scopeLogs) {
                for (const record of scope.logRecords) {
                    const all = {resource: resource.resource.attributes, ...record};
                    console.log(JSON.stringify(all, plain));
                }
            }
        }
    },
});
server.start().then(() => console.log(server.httpUrl.href ?? String(server.httpUrl)));
