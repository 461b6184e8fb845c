// The same work by sqs-consumer: receive from QUEUE_URL, POST each message to WORKER_URL, delete.
//
//   node consumer.mjs default       one consumer as its README makes one: one message a receive
//   node consumer.mjs batched 8     8 consumers that receive and delete 10 at a time, each batch posted at once
import http from 'node:http';
import { SQSClient } from '@aws-sdk/client-sqs';
import { Consumer } from 'sqs-consumer';

const [mode = 'default', count = '1'] = process.argv.slice(2);
const queueUrl = process.env.QUEUE_URL;
const worker = new URL(process.env.WORKER_URL);
const agent = new http.Agent({ keepAlive: true, maxSockets: 256 });
const sqs = new SQSClient({
  endpoint: process.env.SQS_ENDPOINT_URL,
  region: 'us-east-1',
  credentials: { accessKeyId: 'key', secretAccessKey: 'secret' },
});

// Of what Node brings, this is the fastest client.
const post = (message) =>
  new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(message.Body) };
    const request = http.request(worker, { method: 'POST', agent, headers }, (response) => {
      response.resume();
      response.on('end', () => (response.statusCode < 300 ? resolve(message) : reject(new Error(response.statusCode))));
    });
    request.on('error', reject);
    request.end(message.Body);
  });

const batched = {
  batchSize: 10,
  handleMessageBatch: (messages) => Promise.all(messages.map(post)),
};
const single = { handleMessage: post };

for (let n = 0; n < Number(count); n += 1) {
  const consumer = Consumer.create({ queueUrl, sqs, ...(mode === 'batched' ? batched : single) });
  consumer.on('error', (error) => console.error(error.message));
  consumer.on('processing_error', (error) => console.error(error.message));
  consumer.start();
}
