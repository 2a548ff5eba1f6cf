// Classify photos from Flutter: flutter pub add crypto http image_picker
import 'dart:convert';
import 'dart:math';
import 'dart:typed_data';
import 'package:crypto/crypto.dart';
import 'package:http/http.dart' as http;
import 'package:image_picker/image_picker.dart';

const api = 'https://api.example.com/api/v1';

/// Lets the user pick a photo; the picker returns it compressed.
Future<Uint8List?> pickCompressedImage({double maxEdge = 1024, int quality = 80}) async {
  final photo = await ImagePicker().pickImage(
      source: ImageSource.gallery, maxWidth: maxEdge, maxHeight: maxEdge, imageQuality: quality);
  return photo?.readAsBytes();
}

/// Returns the service's answer; `answer['data']['category']` is the category. Throws [ClassifyError].
Future<Map<String, dynamic>> classifyPhoto(Uint8List bytes, {String userId = ''}) async {
  final hash = sha256.convert(bytes).toString();
  final random = Random.secure(); // a repeat has the same key, and counts once
  final key = List.generate(16, (_) => random.nextInt(256).toRadixString(16).padLeft(2, '0')).join();
  final cached = await call(() => http.Request('POST', Uri.parse('$api/classify/check-cache'))
    ..headers.addAll({'X-User-ID': userId, 'Idempotency-Key': key, 'Content-Type': 'application/json'})
    ..body = jsonEncode({'image_hash': hash}));
  if (cached['cached'] == true) return cached;
  return call(() => http.MultipartRequest('POST', Uri.parse('$api/classify'))
    ..headers.addAll({'X-User-ID': userId, 'Idempotency-Key': key})
    ..fields['image_hash'] = hash
    ..files.add(http.MultipartFile.fromBytes('image', bytes, filename: 'photo.jpg')));
}

Future<Map<String, dynamic>> call(http.BaseRequest Function() request, {int attempts = 3}) async {
  final http.Response response;
  try {
    response = await http.Response.fromStream(await request().send().timeout(const Duration(seconds: 120)));
  } on http.ClientException {
    if (attempts == 1) rethrow;
    await Future.delayed(const Duration(seconds: 1)); // the answer is lost, as when the phone changes its network
    return call(request, attempts: attempts - 1);
  }
  final pause = int.tryParse(response.headers['retry-after'] ?? '');
  if (response.statusCode == 503 && pause != null && attempts > 1) {
    await Future.delayed(Duration(seconds: pause));
    return call(request, attempts: attempts - 1);
  }
  final isJson = (response.headers['content-type'] ?? '').contains('json');
  final answer = isJson ? jsonDecode(utf8.decode(response.bodyBytes)) : {'error': null};
  if (answer['success'] == true) return answer;
  throw ClassifyError(answer['error']?['code'] ?? 'http_error', answer['error']?['message'] ?? 'HTTP ${response.statusCode}');
}

class ClassifyError implements Exception {
  ClassifyError(this.code, this.message);
  final String code, message;
}
